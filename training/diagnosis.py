"""Diagnosis: does a network underfit, overfit or fit, in words and in a picture."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure

from training.loop import Epoch, Score

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


def draw_curves(epochs: Sequence[Epoch], best: int, diagnosis: Diagnosis) -> bytes:
    """Training and validation loss over the epochs, the best one marked, and the gap: a PNG file.

    Args:
        best: the epoch whose weights were kept, counted from 1.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    counted = range(1, len(epochs) + 1)
    axes.plot(counted, [epoch.loss for epoch in epochs], label="training, as it was taught")
    held_out = [(n, e.valid.loss) for n, e in zip(counted, epochs, strict=True) if e.valid]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), label="validation")
    axes.axvline(best, linestyle=":", color="grey", label=f"kept: epoch {best}")
    axes.annotate(
        "",
        xy=(best, diagnosis.known.loss),
        xytext=(best, diagnosis.new.loss),
        arrowprops={"arrowstyle": "<->"},
    )
    axes.set(
        xlabel="epoch", ylabel="loss", ylim=(0, None), title=f"the network {diagnosis.verdict}"
    )
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
