"""Diagnosis: whether a network underfits, overfits or fits, and what may help."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

from training.loop import Score

Verdict = Literal["underfits", "overfits", "fits"]

# A network underfits if it makes more than this share of the errors of guessing on known data.
TAUGHT = 0.5
# It overfits if held-out data have at least this many more errors, and this many times as many.
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
# Advice and its flags of `fit`. A mode without these flags omits the advice.
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
    """The verdict on the errors on known and on new data."""

    verdict: Verdict
    known: Score  # on the training data, without augmentation
    new: Score  # on held-out data
    guessing: float  # accuracy of always answering the most frequent label
    flags: Container[str]  # of the mode

    def __str__(self) -> str:
        return (
            f"It {self.verdict}: {self.known.accuracy:.3f} right on training data,"
            f" {self.new.accuracy:.3f} on held-out data (guessing gives {self.guessing:.3f})."
            f" What may help: {'; '.join(self.advice)}."
        )

    @property
    def advice(self) -> list[str]:
        """What may help, with the flags."""
        return [
            f"{what} ({', '.join(known)})" if wanted else what
            for what, wanted in ADVICE[self.verdict].items()
            if (known := [flag for flag in wanted if flag in self.flags]) or not wanted
        ]


def diagnose(known: Score, new: Score, guessing: float, flags: Container[str] = ()) -> Diagnosis:
    """Name the state of a trained network.

    Args:
        known: its score on the training data, without augmentation and dropout.
        new: its score on the validation data.
        guessing: the share of the most frequent label, 0..1.
        flags: of the mode, such as --hidden.
    """
    errors, new_errors = 1 - known.accuracy, 1 - new.accuracy
    verdict: Verdict = "fits"
    if errors > TAUGHT * (1 - guessing):
        verdict = "underfits"
    elif new_errors - errors > GAP and new_errors > RATIO * errors:
        verdict = "overfits"
    return Diagnosis(verdict, known, new, guessing, flags)
