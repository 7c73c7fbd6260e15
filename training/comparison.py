"""Compare: two models on the same data, with a test of the difference.

python -m training compare spoken-digits:1 spoken-digits:2 --data DIR
"""

import argparse
import asyncio
from pathlib import Path

import numpy as np

from training.answers import Answered, CannotAnswer, FolderModels, Scored, find_scored, keep_known
from training.evaluation import print_skipped
from training.measures import Duel

UNLIKELY = 0.05  # the customary bound of a p-value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m training compare`."""
    parser.add_argument("first", help="NAME or NAME:VERSION")
    parser.add_argument("second", help="NAME or NAME:VERSION")
    parser.add_argument("--data", type=Path, required=True, help="as in `evaluate`")
    parser.add_argument("--models", type=Path, default=Path("models"), help="of model folders")


def run(args: argparse.Namespace) -> None:
    """Print the comparison.

    Raises:
        TrainingError, SensoriumError: one cannot be asked, or the data cannot be read.
    """
    scored, answers = asyncio.run(_ask_both(args))
    duel = compare(scored, *answers)
    print_skipped(
        list(
            dict.fromkeys((*scored.skipped, *(s for answered in answers for s in answered.skipped)))
        )
    )
    _print(duel, scored, *answers)


def compare(scored: Scored, first: Answered, second: Answered) -> Duel:
    """The results of two models on the items that both can read.

    Raises:
        CannotAnswer: there are none.
    """
    numbers = sorted(set(first.probabilities) & set(second.probabilities))
    if not numbers:
        raise CannotAnswer(f"no item of {scored.source} was answered by both")
    said = [
        np.array([answered.subject.labels[answered.probabilities[n].argmax()] for n in numbers])
        for answered in (first, second)
    ]
    right = np.array([scored.items[number].label for number in numbers])
    one, other = said[0] == right, said[1] == right
    return Duel(
        both=int((one & other).sum()),
        only_first=int((one & ~other).sum()),
        only_second=int((~one & other).sum()),
        neither=int((~one & ~other).sum()),
        agreement=float((said[0] == said[1]).mean()),
    )


async def _ask_both(args: argparse.Namespace) -> tuple[Scored, tuple[Answered, Answered]]:
    async with FolderModels.open(args.models) as models:
        first, second = models.find(args.first), models.find(args.second)
        if first.modality != second.modality:
            raise CannotAnswer(
                f"{first.name} reads {first.modality}, {second.name} {second.modality}"
            )
        scored = find_scored(args.data, first.modality)
        for subject in (first, second):
            scored = keep_known(scored, subject)
        # One after the other, so that neither takes the other's cores.
        return scored, (
            await models.ask(first, scored.items),
            await models.ask(second, scored.items),
        )


def _print(duel: Duel, scored: Scored, first: Answered, second: Answered) -> None:
    names = [f"{answered.subject.name}:{answered.subject.version}" for answered in (first, second)]
    print(f"on {duel.items} of {scored.source}")
    for name, share, answered in zip(names, duel.accuracies, (first, second), strict=True):
        print(f"{name}: accuracy {share:.4f}, {answered.throughput:.1f} items/s")
    print(f"right: both {duel.both}, only {names[0]} {duel.only_first},", end=" ")
    print(f"only {names[1]} {duel.only_second}, none {duel.neither}")
    print(f"agreement: {duel.agreement:.4f}")
    print(f"McNemar's exact test: p = {duel.p_value:.3g}: {_judge(duel)}")
    ratio = first.throughput / second.throughput
    print(f"{names[0]} is {ratio:.2f} times as fast as {names[1]}")


def _judge(duel: Duel) -> str:
    if duel.only_first == duel.only_second:
        return "there is no difference"
    return f"the difference {'is hardly' if duel.p_value < UNLIKELY else 'may be'} chance"
