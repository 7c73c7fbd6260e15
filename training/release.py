"""Release: write the manifest, the files and the card of a trained model."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from service.model.manifest import Example, Figure, Graph, Manifest, Origin
from service.model.specs import Kind, first_fault
from service.model.tasks.classify import ClassifySpec
from service.regular import sha256
from training.course import Course
from training.diagnosis import Diagnosis
from training.errors import BadData
from training.finder import Sweep
from training.folder import Content, name_example, write_folder
from training.layouts import Split
from training.loop import Outcome, Score
from training.material import Part
from training.measures import accuracy, confusion
from training.page import Answers, Report, write_page
from training.plots import draw_confusion
from training.scores import Scores

OUTPUT = "log_probabilities"
GRAPH, LABELS, PAGE = "model.onnx", "labels.txt", "report.html"
CONFUSION = "confusion.png"
TOLERANCE = 1e-3  # of a probability, between versions of onnxruntime and machines
NAMED = 5  # labels in a description
UNKNOWN = "0" * 64  # placeholder, until there is a graph
A: Mapping[Kind, str] = {
    "image": "an image",
    "text": "a text",
    "audio": "an audio file",
    "multimodal": "an item of several modalities",
}
NAMES: Mapping[Kind, str] = {
    "image": "images", "text": "texts", "audio": "audio files", "multimodal": "items",
}  # fmt: skip
PARITY_SIZES = (1, 2, 3, 8, 16)
SPLITS: Mapping[Split, str] = {"train": "training", "valid": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class Findings:
    """The measurements of one fit."""

    answers: Mapping[Split, Tensor] = field(repr=False)  # log-probabilities, of the held-out splits
    scores: Mapping[Split, Scores]
    learning_rate: float
    sweep: Sweep | None
    temperature: float
    outcome: Outcome = field(repr=False)
    folds: Mapping[str, Outcome] = field(repr=False)  # by what was left out
    disturbed: Mapping[str, Scores]  # of the course's disturbed items
    diagnosis: Diagnosis
    parity: float  # largest absolute difference between PyTorch and onnxruntime
    prepared_seconds: float
    fit_seconds: float


def draft_manifest(
    args: argparse.Namespace, modality: Kind, version: int, course: Course
) -> Manifest:
    """The manifest of the future model, without the graph's hash and the figures.

    Raises:
        BadData: the manifest would be invalid.
    """
    source = args.example or course.example.content
    try:
        return Manifest(
            format=1,
            name=args.name,
            version=version,
            description=args.description
            or course.description
            or _describe(modality, course.labels),
            preprocessing=course.preprocessing,
            graphs=(Graph(file=GRAPH, sha256=UNKNOWN),),
            tasks={
                "classify": ClassifySpec(output=OUTPUT, activation="log_softmax", labels=LABELS)
            },
            example=Example(
                file=name_example(source) if isinstance(source, Path) else "example.txt",
                tolerance={"fp32": TOLERANCE},
            ),
            origin=Origin(
                source=course.source,
                licence=args.licence or course.licence or "that of its data",
                data=args.credit or course.credit or _name_data(NAMES[modality], args.data),
            ),
        )
    except ValidationError as error:
        raise BadData(f"the model could not be described: {first_fault(error)}") from error


def _name_data(what: str, folder: Path) -> str:
    """The data's folder, for the manifest; its name may be invalid UTF-8."""
    return f"{what} in {folder.resolve().name}".encode(errors="replace").decode()


def release(
    args: argparse.Namespace,
    modality: Kind,
    draft: Manifest,
    course: Course,
    findings: Findings,
    graph: Path,
    command: str,
) -> Path:
    """Write the model folder and verify it by the serving path.

    Args:
        draft: the manifest without the graph's hash and the figures.
        command: trains this model again.
    """
    [drafted] = draft.graphs
    manifest = draft.model_copy(
        update={
            "graphs": (drafted.model_copy(update={"sha256": sha256(graph)}),),
            "evaluation": tuple(_figures(course, findings)),
        }
    )
    files: dict[str, Content] = {
        GRAPH: graph,
        LABELS: "".join(f"{label}\n" for label in course.labels),
        manifest.example.file: args.example or course.example.content,
        manifest.card: _card(args, manifest, course, findings, command),
        PAGE: write_page(_report(modality, manifest, course, findings, command)),
        **course.files,
    }
    if findings.folds:
        files[CONFUSION] = _draw_confusion(course, findings)
    return write_folder(
        args.models, manifest, files, replace=args.replace, find_encoder=course.find_encoder
    )


def _report(
    modality: Kind, manifest: Manifest, course: Course, findings: Findings, command: str
) -> Report:
    outcome, parts = findings.outcome, course.parts
    return Report(
        title=f"{manifest.name} {manifest.version}",
        description=manifest.description,
        modality=modality,
        labels=course.labels,
        facts={
            **course.facts,
            "Data": manifest.origin.data,
            "Licence": manifest.origin.licence,
            "Items": _count_items(parts),
            "Learning rate": f"{findings.learning_rate:g}",
            "Temperature": f"{findings.temperature:.2f}",
            "PyTorch and onnxruntime": f"differ by at most {findings.parity:.1g}",
        },
        answers=_answers(course, findings),
        epochs=outcome.epochs,
        best=outcome.best,
        diagnosis=findings.diagnosis,
        sweep=findings.sweep,
        command=command,
    )


def _answers(course: Course, findings: Findings) -> dict[str, Answers]:
    """The answers of each split but the training split, by the split's name."""
    return {
        course.name(split): Answers(
            course.parts[split].items, course.parts[split].labels.numpy(), given.exp().numpy()
        )
        for split, given in findings.answers.items()
    }


def _draw_confusion(course: Course, findings: Findings) -> bytes:
    """The confusion matrix of each split, side by side, as PNG."""
    matrices = {
        f"{name}: {accuracy(given.right, given.given):.3f}": confusion(
            given.right, given.given, len(course.labels)
        )
        for name, given in _answers(course, findings).items()
    }
    return draw_confusion(matrices, course.labels)


def _describe(modality: Kind, labels: tuple[str, ...]) -> str:
    named = ", ".join(labels[:NAMED]) + (" ..." if len(labels) > NAMED else "")
    return f"Classifies {A[modality]} into {len(labels)} classes: {named}."


def _figures(course: Course, findings: Findings) -> list[Figure]:
    return [
        Figure(metric=metric, value=round(value, 4), data=course.name(split))
        for split, scores in findings.scores.items()
        for metric, value in _named(scores).items()
    ]


def _named(scores: Scores) -> dict[str, float]:
    return {
        "accuracy": scores.accuracy,
        "macro F1": scores.macro_f1,
        "expected calibration error": scores.calibration_error,
    }


def _count_items(parts: Mapping[Split, Part]) -> str:
    """The number of items of each split."""
    return ", ".join(f"{SPLITS[split]} {len(part.items):,}" for split, part in parts.items())


def _card(
    args: argparse.Namespace, manifest: Manifest, course: Course, findings: Findings, command: str
) -> str:
    """The card of a model in Markdown."""
    skipped = f"; {course.skipped} more could not be used" if course.skipped else ""
    scores = {course.name(split): scores for split, scores in findings.scores.items()}
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        manifest.description,
        "",
        f"- **Answers**: the {len(course.labels)} labels of [{LABELS}]({LABELS})",
        *(f"- **{what}**: {fact}" for what, fact in course.facts.items()),
        f"- **Data**: {manifest.origin.data}",
        f"- **Licence**: {manifest.origin.licence}",
        f"- **Example**: {args.example_source}",
        "",
        f"[{PAGE}]({PAGE}) shows curves, confusions and the most confident mistakes.",
        "",
        "## Figures",
        "",
        f"Items: {_count_items(course.parts)}{skipped}. Every choice was made on the"
        f" {course.validation}; a test split is scored once and decides nothing.",
        "",
        "| measured on | accuracy | macro F1 | expected calibration error |",
        "|---|---|---|---|",
        *(
            f"| {name} | " + " | ".join(f"{value:.3f}" for value in _named(found).values()) + " |"
            for name, found in {**scores, **findings.disturbed}.items()
        ),
        "",
        *_tell_folds(findings.folds),
        f"{findings.diagnosis}",
        "",
        f"Learning rate {findings.learning_rate:g}, best of {len(findings.outcome.epochs)} epochs:"
        f" {findings.outcome.best}. Scores are divided by a temperature of"
        f" {findings.temperature:.2f}, fitted on the {course.validation}, so its calibration error"
        " is slightly optimistic. The greatest difference between PyTorch and onnxruntime"
        f" is {findings.parity:.1g}, on probabilities, in batches of"
        f" {', '.join(map(str, PARITY_SIZES))}.",
        "",
        "## Limits",
        "",
        f"- It always answers with one of its {len(course.labels)} labels, whatever the input.",
        *(f"- {limit}" for limit in course.limits),
        "",
        "## Reproduce",
        "",
        "```",
        command,
        "```",
        "",
        f"Preparation took {findings.prepared_seconds:.0f} s, fitting {findings.fit_seconds:.0f} s,"
        f" with --threads {args.threads}. The same seed gives the same weights on the same machine,"
        " the same number of threads and the same PyTorch.",
    ]
    return "\n".join(lines) + "\n"


def _tell_folds(folds: Mapping[str, Outcome]) -> list[str]:
    """A table of the folds, and the confusion matrices."""
    if not folds:
        return []
    rows = [
        f"| {name} | {fold.best} | {_accuracy(fold.score)} | {_accuracy(fold.epochs[-1].valid)} |"
        for name, fold in folds.items()
    ]
    return [
        "| left out | best epoch | its accuracy | accuracy after the last epoch |",
        "|---|---|---|---|",
        *rows,
        "",
        "The model learned from all of them, for the median of the best epochs.",
        "",
        f"![Confusion matrices]({CONFUSION})",
        "",
    ]


def _accuracy(score: Score | None) -> str:
    return f"{score.accuracy:.3f}" if score else ""
