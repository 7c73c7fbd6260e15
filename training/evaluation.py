"""Evaluate: measure the accuracy and speed of a model folder or a running service.

python -m training evaluate spoken-digits --data DIR
python -m training evaluate spoken-digits --data DIR --url http://localhost:3000
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.answers import (
    Answered,
    CannotAnswer,
    FolderModels,
    Scored,
    ServiceModels,
    find_scored,
    keep_known,
)
from training.measures import (
    Counts,
    accuracy,
    calibration_error,
    confusion,
    confusions,
    macro_f1,
)
from training.plots import draw_confusion

MAX_CONFUSIONS = 10
MAX_SKIPPED = 20  # sentences shown; the others are counted


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one model on one data set; shares between 0 and 1."""

    items: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    counts: Counts  # [right class, answered class]
    throughput: float  # items a second
    concurrency: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m training evaluate`."""
    add = parser.add_argument
    add("model", help="NAME or NAME:VERSION")
    add(
        "--data",
        type=Path,
        required=True,
        help="DIR/test/<class>/files, DIR/<class>/files, or a table text,label",
    )
    add("--url", help="of a running service; default: load the folder")
    add("--models", type=Path, default=Path("models"), help="the folder of model folders")
    add("--confusion", type=Path, metavar="FILE.png", help="draw the confusion matrix")


def run(args: argparse.Namespace) -> None:
    """Print the figures.

    Raises:
        TrainingError, SensoriumError: the model cannot be asked, or the data cannot be read.
    """
    if args.url:
        service = ServiceModels(args.url)
        subject = service.find(args.model)
        scored = keep_known(find_scored(args.data, subject.modality), subject)
        answered = service.ask(subject, scored.items)
    else:
        scored, answered = asyncio.run(_ask_folder(args.models, args.model, args.data))
    evaluation = evaluate(scored, answered)
    print_skipped((*scored.skipped, *answered.skipped))
    _print(evaluation, scored, answered)
    if args.confusion:
        title = f"accuracy {evaluation.accuracy:.3f}"
        args.confusion.parent.mkdir(parents=True, exist_ok=True)
        args.confusion.write_bytes(
            draw_confusion({title: evaluation.counts}, answered.subject.labels)
        )
        print(f"the confusion matrix is in {args.confusion}")


def evaluate(scored: Scored, answered: Answered) -> Evaluation:
    """The figures of those items that were answered.

    Raises:
        CannotAnswer: none was.
    """
    labels = answered.subject.labels
    numbers = sorted(answered.probabilities)
    if not numbers:
        raise CannotAnswer(f"no item of {scored.source} can be read: {answered.skipped[0]}")
    probabilities = np.stack([answered.probabilities[number] for number in numbers])
    right = np.array([labels.index(scored.items[number].label) for number in numbers])
    # Two classes may have the same name, as ImageNet's two cranes do; both count as right.
    first = np.array([labels.index(label) for label in labels])
    given = first[probabilities.argmax(axis=1)]
    return Evaluation(
        items=len(numbers),
        accuracy=accuracy(right, given),
        macro_f1=macro_f1(right, given),
        calibration_error=calibration_error(right == given, probabilities.max(axis=1)),
        counts=confusion(right, given, len(labels)),
        throughput=answered.throughput,
        concurrency=answered.concurrency,
    )


def print_skipped(sentences: Sequence[str]) -> None:
    """Print the skipped items."""
    for sentence in sentences[:MAX_SKIPPED]:
        print(f"skipped: {sentence}")
    if (more := len(sentences) - MAX_SKIPPED) > 0:
        print(f"skipped: {more} more")


async def _ask_folder(models: Path, reference: str, data: Path) -> tuple[Scored, Answered]:
    async with FolderModels.open(models) as opened:
        subject = opened.find(reference)
        scored = keep_known(find_scored(data, subject.modality), subject)
        return scored, await opened.ask(subject, scored.items)


def _print(evaluation: Evaluation, scored: Scored, answered: Answered) -> None:
    subject = answered.subject
    print(f"{subject.name} version {subject.version} on {evaluation.items} of {scored.source}")
    print(f"accuracy           {evaluation.accuracy:.4f}")
    print(f"macro F1           {evaluation.macro_f1:.4f}")
    print(f"calibration error  {evaluation.calibration_error:.4f}")
    print(
        f"throughput         {evaluation.throughput:.1f} items/s,"
        f" {evaluation.concurrency} in flight"
    )
    if mistakes := confusions(evaluation.counts, MAX_CONFUSIONS):
        print("commonest mistakes")
        for right, given, count in mistakes:
            print(f"  {count:5}  {subject.labels[right]} taken for {subject.labels[given]}")
