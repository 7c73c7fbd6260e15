"""A fit told to people: the confusion matrices as a picture, the card in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.model.manifest import Manifest
from service.model.preprocessing.audio import AudioPreprocessing
from training import plots
from training.diagnosis import Diagnosis
from training.finder import Sweep
from training.loop import Outcome
from training.measures import accuracy, calibration_error, confusion
from training.page import Answers, Report, write_page


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One fold: what a network answered to a speaker whom it had never heard."""

    speaker: str
    answers: Answers
    best_epoch: int
    last_accuracy: float  # after the last epoch, not the best one

    @property
    def accuracy(self) -> float:
        return accuracy(self.answers.right, self.answers.given)


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was measured of one fit."""

    folds: tuple[HeldOut, ...]
    test: Answers
    disturbed: Mapping[str, float]  # what was done to the test takes -> accuracy
    outcome: Outcome  # of the last fit
    sweep: Sweep | None
    learning_rate: float
    temperature: float
    diagnosis: Diagnosis
    parameters: int
    parity: float  # greatest absolute difference between PyTorch and onnxruntime
    minutes: float
    threads: int

    @property
    def held_out(self) -> Answers:
        """All folds together."""
        answers = [fold.answers for fold in self.folds]
        return Answers(
            tuple(item for one in answers for item in one.items),
            np.concatenate([one.right for one in answers]),
            np.concatenate([one.probabilities for one in answers]),
        )

    @property
    def held_out_accuracy(self) -> float:
        """The mean over speakers."""
        return float(np.mean([fold.accuracy for fold in self.folds]))

    @property
    def test_accuracy(self) -> float:
        return accuracy(self.test.right, self.test.given)

    @property
    def last_accuracy(self) -> float:
        return float(np.mean([fold.last_accuracy for fold in self.folds]))


def draw_confusion(findings: Findings, labels: Sequence[str]) -> bytes:
    """Two confusion matrices, of speakers never heard and of takes never heard, as PNG."""
    split = {
        f"speakers never heard: {findings.held_out_accuracy:.3f}": findings.held_out,
        f"official test takes: {findings.test_accuracy:.3f}": findings.test,
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
        f"- **Network**: {_describe(findings)}",
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
            f" {fold.accuracy:.3f} |"
            for fold in findings.folds
        ),
        f"| **mean over speakers left out** | **{findings.held_out_accuracy:.3f}** |",
        f"| the same after each fold's last epoch, none chosen | {findings.last_accuracy:.3f} |",
        f"| **official test split**, {len(findings.test.right)} takes |"
        f" **{findings.test_accuracy:.3f}** |",
        *(
            f"| test split {what} | {accuracy:.3f} |"
            for what, accuracy in findings.disturbed.items()
        ),
        "",
        f"![Confusion matrices]({picture})",
        "",
        f"{findings.diagnosis}",
        "",
        f"Learning rate {findings.learning_rate:g}. Scores are divided by a temperature of"
        f" {findings.temperature:.2f}, fitted on speakers left out, whose expected calibration"
        f" error it brings to {_calibration_error(findings.held_out):.3f}. The greatest difference"
        f" between PyTorch and onnxruntime is {findings.parity:.1g}, on probabilities, in batches"
        " of 1, 2, 3 and 8.",
        "",
        "The most confident mistakes are in [report.html](report.html).",
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


def write_report(
    manifest: Manifest, findings: Findings, labels: Sequence[str], command: str
) -> str:
    """The report of a model as one HTML file; speakers left out are looked at closely."""
    return write_page(
        Report(
            title=f"{manifest.name} {manifest.version}",
            description=manifest.description,
            modality="audio",
            labels=tuple(labels),
            facts={
                "Network": _describe(findings),
                "Data": manifest.origin.data,
                "Licence": manifest.origin.licence,
                "Speakers": ", ".join(fold.speaker for fold in findings.folds),
                "Learning rate": f"{findings.learning_rate:g}",
                "Temperature": f"{findings.temperature:.2f}",
                "PyTorch and onnxruntime": f"differ by at most {findings.parity:.1g}",
            },
            answers={"test": findings.test, "speakers left out": findings.held_out},
            epochs=findings.outcome.epochs,
            best=findings.outcome.best,
            diagnosis=findings.diagnosis,
            sweep=findings.sweep,
            command=command,
        )
    )


def _describe(findings: Findings) -> str:
    return (
        f"convolutions on a log-mel spectrogram, {findings.parameters:,} parameters, trained from"
        f" scratch for {len(findings.outcome.epochs)} epochs"
    )


def _calibration_error(answers: Answers) -> float:
    return calibration_error(answers.hits, answers.confidence)


def _limits(manifest: Manifest) -> list[str]:
    preprocessing = manifest.preprocessing
    if not isinstance(preprocessing, AudioPreprocessing):
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
