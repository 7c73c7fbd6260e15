"""Likeness: how near the int8 or fp16 variant of a graph comes to it, and how much faster it is."""

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.limits import core_budget
from service.model.manifest import Tasks
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.specs import Frozen
from service.model.tasks.classify import ClassifySpec, probabilities
from service.model.tasks.task import Floats
from service.model.types import Sample
from service.runtime.session import Session
from service.settings import Provider
from training.errors import TrainingError
from training.export import Feeds

BATCH = 16  # in which answers are computed
ROUNDS = 15  # of a speed measurement; the median of an odd number is one of them

MAX_LOSS = 0.02  # of top-1
MIN_AGREEMENT = 0.95
MAX_BATCH_DIFFERENCE = 1e-4
MAX_HEAD_LOSS = 0.005  # of a head's accuracy: heads that fp32 taught are to run behind the variant
MIN_MEAN_COSINE = 0.985
MIN_LOW_COSINE = 0.98
MIN_BATCH_COSINE = 0.9999
# Of any one sample at import.
MIN_INT8_COSINE = 0.9  # a hundredth of real ones are below 0.972
MIN_FP16_COSINE = 0.999  # real ones are above 0.9999
MIN_SPEED = 1.1  # below it the gain is within what a busy machine takes away


class Unlike(TrainingError):
    """A variant's vectors are not those of its graph."""


class Figures(Frozen):
    """A variant beside fp32, on samples that had no part in making it."""

    held_out: int  # samples
    cosine: float  # mean, of the vectors
    speed_1: float  # time of fp32 / time of the variant, one sample a batch
    speed_8: float


class LabelFigures(Figures):
    """Of an encoder that names classes by itself."""

    top1_fp32: float | None = None  # None: the samples have no labels
    top1: float | None = None
    agreement: float  # share of samples whose first label is the same
    batch_difference: float  # greatest, of a probability: alone and among sixteen


class VectorFigures(Figures):
    """Of an encoder whose vectors are all that it gives."""

    head_fp32: float | None = None  # accuracy of a head on fp32's vectors; None: no labels
    head: float | None = None  # of the same head on the variant's
    low_cosine: float  # a hundredth of the samples are below it
    batch_cosine: float  # lowest: a sample alone and among sixteen


def judge(figures: LabelFigures | VectorFigures) -> tuple[bool, str]:
    """Whether the variant may ship, with the reasons."""
    if isinstance(figures, LabelFigures):
        objections = [*_judge_labels(figures), *_judge_speed(figures)]
    else:
        objections = [*_judge_vectors(figures), *_judge_speed(figures)]
    return not objections, "; ".join(objections) or "within every limit, and faster"


def measure(
    tasks: Tasks,
    fp32: Path,
    variant: Path,
    preprocessor: Preprocessor,
    samples: Sequence[Sample],
    labels: Sequence[str],
    provider: Provider = Provider.CPU,
    rounds: int = ROUNDS,
) -> LabelFigures | VectorFigures:
    """A variant beside fp32: answers on all of the CPU's cores, speed as one lane has it.

    Args:
        labels: of the samples, numbers of the model's own classes; empty where there is none.
        provider: where the speed is measured.
    """
    embed, classify = tasks["embed"].output, tasks.get("classify")
    outputs = [spec.output for spec in tasks.values()]
    given, found = (_run(g, preprocessor, samples, outputs, BATCH) for g in (fp32, variant))
    alone = _run(variant, preprocessor, samples[:BATCH], outputs, size=1)
    likeness = cosines(given[embed], found[embed])
    speeds = [
        _speed(fp32, variant, preprocessor.collate(samples[:size]), provider, rounds)
        for size in (1, 8)
    ]
    common = Figures(
        held_out=len(samples),
        cosine=round(float(likeness.mean()), 4),
        speed_1=speeds[0],
        speed_8=speeds[1],
    ).model_dump()
    if not isinstance(classify, ClassifySpec):
        head = _ask_head(given[embed], found[embed], labels) if any(labels) else (None, None)
        return VectorFigures(
            **common,
            head_fp32=head[0],
            head=head[1],
            low_cosine=round(float(np.percentile(likeness, 1)), 4),
            batch_cosine=round(float(cosines(alone[embed], found[embed][:BATCH]).min()), 7),
        )
    scores_given, scores, scores_alone = (
        np.stack([probabilities(row, classify.activation) for row in answers[classify.output]])
        for answers in (given, found, alone)
    )
    first_given, first = scores_given.argmax(axis=1), scores.argmax(axis=1)
    truth = np.array(labels, int) if all(labels) else None
    return LabelFigures(
        **common,
        top1_fp32=_share(first_given == truth) if truth is not None else None,
        top1=_share(first == truth) if truth is not None else None,
        agreement=_share(first_given == first),
        batch_difference=float(np.abs(scores_alone - scores[:BATCH]).max()),
    )


def check_likeness(
    fp32: Path, variant: Path, batches: Iterable[Feeds], vector: str, least: float
) -> float:
    """The lowest cosine between the two graphs' vectors.

    Args:
        vector: the output float[N, width] that is compared.

    Raises:
        Unlike: it is below `least`.
    """
    sessions = [Session(graph, Provider.CPU, core_budget()) for graph in (fp32, variant)]
    lowest = 1.0
    for feeds in batches:
        [left], [right] = (session.run(feeds, [vector]) for session in sessions)
        found = float(cosines(left, right).min())
        if not found >= least:  # so that not-a-number fails as well
            raise Unlike(
                f"on this processor a vector of {variant.name} has a cosine of {found:.3f} with"
                f" that of fp32; at least {least} is wanted"
            )
        lowest = min(lowest, found)
    return lowest


def cosines(left: Floats, right: Floats) -> Floats:
    """float32[N] of two float32[N, width]."""
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    found: Floats = (left * right).sum(axis=1) / lengths
    return found


def _speed(fp32: Path, variant: Path, feeds: Feeds, provider: Provider, rounds: int) -> float:
    """Time of fp32 / time of the variant: medians of turns, so that a busy machine hurts both."""
    sessions = [Session(graph, provider, threads=1) for graph in (fp32, variant)]
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(feeds, list(session.outputs))
            taken.append(time.perf_counter() - start)
    return round(float(np.median(times[0]) / np.median(times[1])), 2)


def _share(hits: NDArray[np.bool_]) -> float:
    return round(float(np.mean(hits)), 4)


def _run(
    graph: Path,
    preprocessor: Preprocessor,
    samples: Sequence[Sample],
    outputs: Sequence[str],
    size: int,
) -> dict[str, Floats]:
    """Each output, float32[N, ...], computed in batches of `size`."""
    session = Session(graph, Provider.CPU, core_budget())
    runs = [
        session.run(preprocessor.collate(samples[start : start + size]), outputs)
        for start in range(0, len(samples), size)
    ]
    arrays = (np.concatenate(found) for found in zip(*runs, strict=True))
    return dict(zip(outputs, arrays, strict=True))


def _ask_head(given: Floats, found: Floats, labels: Sequence[str]) -> tuple[float, float]:
    """The accuracy of a head on both vectors of every other sample that has a label.

    It is linear and learned by least squares, from fp32's vectors of the others.
    """
    known = [row for row, label in enumerate(labels) if label]
    classes, numbers = np.unique([labels[row] for row in known], return_inverse=True)
    left, right = (np.insert(vectors[known], 0, 1, axis=1) for vectors in (given, found))
    head, *_ = np.linalg.lstsq(left[::2], np.eye(len(classes))[numbers[::2]], rcond=None)
    hits = [(asked[1::2] @ head).argmax(axis=1) == numbers[1::2] for asked in (left, right)]
    return _share(hits[0]), _share(hits[1])


def _judge_labels(figures: LabelFigures) -> Iterator[str]:
    if figures.top1_fp32 is not None and figures.top1 is not None:
        loss = figures.top1_fp32 - figures.top1
        if not loss <= MAX_LOSS:  # so that not-a-number fails as well, here and below
            yield f"top-1 falls by {loss:.3f}, {MAX_LOSS} is allowed"
    if not figures.agreement >= MIN_AGREEMENT:
        yield f"it agrees with fp32 on {figures.agreement:.3f}, {MIN_AGREEMENT} is wanted"
    if not figures.batch_difference <= MAX_BATCH_DIFFERENCE:
        yield (
            f"an answer changes by {figures.batch_difference:.1e} with its batch,"
            f" {MAX_BATCH_DIFFERENCE:.0e} is allowed"
        )


def _judge_vectors(figures: VectorFigures) -> Iterator[str]:
    if figures.head_fp32 is not None and figures.head is not None:
        loss = figures.head_fp32 - figures.head
        if not loss <= MAX_HEAD_LOSS:
            yield f"a head's accuracy falls by {loss:.4f}, {MAX_HEAD_LOSS} is allowed"
    if not figures.cosine >= MIN_MEAN_COSINE:
        yield f"the mean cosine with fp32 is {figures.cosine:.4f}, {MIN_MEAN_COSINE} is wanted"
    if not figures.low_cosine >= MIN_LOW_COSINE:
        yield (
            f"a hundredth of the cosines are below {figures.low_cosine:.4f},"
            f" {MIN_LOW_COSINE} is wanted"
        )
    if not figures.batch_cosine >= MIN_BATCH_COSINE:
        yield (
            f"a vector's cosine with itself in another batch is {figures.batch_cosine:.5f},"
            f" {MIN_BATCH_COSINE} is wanted"
        )


def _judge_speed(figures: Figures) -> Iterator[str]:
    if not min(figures.speed_1, figures.speed_8) > MIN_SPEED:
        yield (
            f"it is {figures.speed_1} and {figures.speed_8} times as fast as fp32 in batches of"
            f" 1 and 8, more than {MIN_SPEED} is wanted"
        )
