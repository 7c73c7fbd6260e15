"""A fit told to people: the confusion matrices as a picture, the card in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.manifest import Manifest
from training import plots
from training.measures import confusion


@dataclass(frozen=True, slots=True)
class Answers:
    """What a network answered to takes whose label is known."""

    right: NDArray[np.int64]
    given: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        return float((self.right == self.given).mean())


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One fold: what a network answered to a speaker whom it had never heard."""

    speaker: str
    answers: Answers
    best_epoch: int
    last_accuracy: float  # after the last epoch, not the best one


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was measured of one fit."""

    folds: tuple[HeldOut, ...]
    test: Answers
    disturbed: Mapping[str, float]  # what was done to the test takes -> accuracy
    epochs: int  # of the last fit
    parameters: int
    parity: float  # greatest absolute difference between PyTorch and onnxruntime
    minutes: float
    threads: int

    @property
    def held_out(self) -> Answers:
        """All folds together."""
        return Answers(
            np.concatenate([fold.answers.right for fold in self.folds]),
            np.concatenate([fold.answers.given for fold in self.folds]),
        )

    @property
    def held_out_accuracy(self) -> float:
        """The mean over speakers."""
        return float(np.mean([fold.answers.accuracy for fold in self.folds]))

    @property
    def last_accuracy(self) -> float:
        return float(np.mean([fold.last_accuracy for fold in self.folds]))


def draw_confusion(findings: Findings, labels: Sequence[str]) -> bytes:
    """Two confusion matrices, of speakers never heard and of takes never heard, as PNG."""
    split = {
        f"speakers never heard: {findings.held_out_accuracy:.3f}": findings.held_out,
        f"official test takes: {findings.test.accuracy:.3f}": findings.test,
    }
    matrices = {
        title: confusion(answers.right, answers.given, len(labels))
        for title, answers in split.items()
    }
    return plots.draw_confusion(matrices, labels)


def write_card(
    manifest: Manifest,
    findings: Findings,
    labels: Sequence[str],
    picture: str,
    example: str,
    command: str,
) -> str:
    """The card of a model in Markdown.

    Args:
        picture: the file name of the confusion matrices.
        example: where the example's recording comes from.
        command: what trains this model again.
    """
    speakers = ", ".join(fold.speaker for fold in findings.folds)
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        manifest.description,
        "",
        f"- **Answers**: {', '.join(labels)}",
        f"- **Network**: convolutions on a log-mel spectrogram,"
        f" {findings.parameters:,} parameters, trained from scratch for {findings.epochs} epochs",
        f"- **Data**: {manifest.origin.data}; speakers: {speakers}",
        f"- **Licence**: {manifest.origin.licence}",
        f"- **Example**: {example}",
        "",
        "## Figures",
        "",
        "Every choice was made on speakers left out of training, one after the other; takes 00 to"
        " 04 of each speaker and word are the test split and decided nothing.",
        "",
        "| measured on | accuracy |",
        "|---|---|",
        *(
            f"| speaker {fold.speaker} left out (best epoch: {fold.best_epoch}) |"
            f" {fold.answers.accuracy:.3f} |"
            for fold in findings.folds
        ),
        f"| **mean over speakers left out** | **{findings.held_out_accuracy:.3f}** |",
        f"| the same after each fold's last epoch, none chosen | {findings.last_accuracy:.3f} |",
        f"| **official test split**, {len(findings.test.right)} takes |"
        f" **{findings.test.accuracy:.3f}** |",
        *(
            f"| test split {what} | {accuracy:.3f} |"
            for what, accuracy in findings.disturbed.items()
        ),
        "",
        f"![Confusion matrices]({picture})",
        "",
        f"The greatest difference between PyTorch and onnxruntime is {findings.parity:.1g},"
        " on log-probabilities, in batches of 1, 2, 3 and 8.",
        "",
        "## Limits",
        "",
        f"- It knows {len(findings.folds)} voices. For a voice that it does not know, expect the"
        " accuracy of speakers left out, not that of the test split; for a child's, or an accent"
        " unlike theirs, less.",
        f"- It always answers with one of its {len(labels)} words, whatever it hears.",
        *_limits(manifest),
        "",
        "## Reproduce",
        "",
        "```",
        command,
        "```",
        "",
        f"It took {findings.minutes:.0f} minutes with --threads {findings.threads}. The same seed"
        " gives the same weights on the same machine, with as many threads and the same PyTorch.",
    ]
    return "\n".join(lines) + "\n"


def _limits(manifest: Manifest) -> list[str]:
    preprocessing = manifest.preprocessing
    if preprocessing.modality != "audio":
        return []
    part = {"start": "the first", "centre": "the middle"}[preprocessing.keep]
    limits = [
        f"- One word a recording: of a longer one it hears {part} {preprocessing.seconds:g} s only."
    ]
    if mel := preprocessing.log_mel:
        limits.append(
            f"- It listens between {mel.low_hz:g} and {mel.high_hz:g} Hz, as a telephone does:"
            " what a better microphone hears above does not help it."
        )
    return limits
