"""Diagnosis: does a network underfit, overfit or fit, in words."""

from dataclasses import dataclass
from typing import Literal

from training.loop import Score

Verdict = Literal["underfits", "overfits", "fits"]

# Who errs on what it was taught half as often as a guesser has not learned it.
TAUGHT = 0.5
# A gap of a tenth between what was taught and what was not is more than chance; and it matters
# where the errors at least double.
GAP, RATIO = 0.10, 2.0

ADVICE: dict[Verdict, str] = {
    "underfits": "train longer, raise the learning rate, weaken dropout and weight decay,"
    " or take a larger network or a better encoder",
    "overfits": "get more or more varied data, augment it, strengthen dropout and weight decay,"
    " stop earlier, or take a smaller network",
    "fits": "more data like this is what would help next",
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the errors on known and on new data say together."""

    verdict: Verdict
    known: Score  # on the data that it was trained on, unchanged
    new: Score  # on the data that were held out
    guessing: float  # accuracy of naming the commonest label always

    def __str__(self) -> str:
        return (
            f"It {self.verdict}: {self.known.accuracy:.3f} right on what it was trained on,"
            f" {self.new.accuracy:.3f} on what was held out (guessing gives {self.guessing:.3f})."
            f" Next: {ADVICE[self.verdict]}."
        )


def diagnose(known: Score, new: Score, guessing: float) -> Diagnosis:
    """Name the state of a trained network.

    Args:
        known: its score on the training data, as they are: no augmentation, no dropout.
        new: its score on the validation data.
        guessing: the share of the commonest label, 0..1.
    """
    errors, new_errors = 1 - known.accuracy, 1 - new.accuracy
    verdict: Verdict = "fits"
    if errors > TAUGHT * (1 - guessing):
        verdict = "underfits"
    elif new_errors - errors > GAP and new_errors > RATIO * errors:
        verdict = "overfits"
    return Diagnosis(verdict, known, new, guessing)
