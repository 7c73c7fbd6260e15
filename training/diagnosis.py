"""Diagnosis: does a network underfit, overfit or fit, in words."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from training.loop import Score

Verdict = Literal["underfits", "overfits", "fits"]

# Who errs on what it was taught half as often as a guesser has not learned it.
TAUGHT = 0.5
# A gap of a tenth between what was taught and what was not is more than chance; and it matters
# where the errors at least double.
GAP, RATIO = 0.10, 2.0

AUGMENTATION = (
    "--zoom",
    "--light",
    "--hide",
    "--absent",
    "--noise",
    "--mask-bands",
    "--mask-frames",
)
ENCODERS = ("--encoder", "--image-encoder", "--text-encoder", "--audio-encoder")
NETWORK = ("--hidden", "--filters")
# What helps, and the flags of `fit` that do it; advice whose flags a mode lacks is left out there.
ADVICE: dict[Verdict, dict[str, tuple[str, ...]]] = {
    "underfits": {
        "train longer": ("--epochs", "--patience"),
        "raise the learning rate": ("--lr",),
        "weaken dropout and weight decay": ("--dropout", "--weight-decay"),
        "augment less": AUGMENTATION,
        "take a larger network": NETWORK,
        "take a better encoder": ENCODERS,
    },
    "overfits": {
        "get more or more varied data": (),
        "augment more": AUGMENTATION,
        "strengthen dropout and weight decay": ("--dropout", "--weight-decay"),
        "stop earlier": ("--patience", "--epochs"),
        "take a smaller network": NETWORK,
    },
    "fits": {"get more data like this": ()},
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the errors on known and on new data say together."""

    verdict: Verdict
    known: Score  # on the data that it was trained on, unchanged
    new: Score  # on the data that were held out
    guessing: float  # accuracy of naming the commonest label always
    flags: Container[str]  # of the command that trained it

    def __str__(self) -> str:
        return (
            f"It {self.verdict}: {self.known.accuracy:.3f} right on what it was trained on,"
            f" {self.new.accuracy:.3f} on what was held out (guessing gives {self.guessing:.3f})."
            f" What may help: {'; '.join(self.advice)}."
        )

    @property
    def advice(self) -> list[str]:
        """What to do next, each with the flags that do it."""
        return [
            f"{what} ({', '.join(known)})" if wanted else what
            for what, wanted in ADVICE[self.verdict].items()
            if (known := [flag for flag in wanted if flag in self.flags]) or not wanted
        ]


def diagnose(known: Score, new: Score, guessing: float, flags: Container[str] = ()) -> Diagnosis:
    """Name the state of a trained network.

    Args:
        known: its score on the training data, as they are: no augmentation, no dropout.
        new: its score on the validation data.
        guessing: the share of the commonest label, 0..1.
        flags: of the command that trained it, as they are typed: what can be advised.
    """
    errors, new_errors = 1 - known.accuracy, 1 - new.accuracy
    verdict: Verdict = "fits"
    if errors > TAUGHT * (1 - guessing):
        verdict = "underfits"
    elif new_errors - errors > GAP and new_errors > RATIO * errors:
        verdict = "overfits"
    return Diagnosis(verdict, known, new, guessing, flags)
