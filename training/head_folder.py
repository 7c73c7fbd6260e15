"""What is written of a head: its manifest, its files, and a card in words."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.manifest import (
    Classify,
    Example,
    Figure,
    Graph,
    Manifest,
    Modality,
    Origin,
    Tasks,
    VectorPreprocessing,
    sha256,
)
from training.folder import Content, write_folder
from training.layouts import Item, Split
from training.loop import Outcome
from training.scores import Scores
from training.vectors import Encoded

INPUT, OUTPUT = "vector", "log_probabilities"
GRAPH, LABELS = "model.onnx", "labels.txt"
TOLERANCE = 1e-3  # of a probability, between this machine's onnxruntime and another's
NAMED = 5  # labels in a description; more are in labels.txt
SPLITS: Mapping[Split, str] = {"train": "training", "valid": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was measured of one fit."""

    labels: tuple[str, ...]
    counts: Mapping[Split, int]
    skipped: int
    scores: Mapping[Split, Scores]  # of validation, and of test where there is one
    learning_rate: float
    temperature: float
    outcome: Outcome
    parity: float  # greatest absolute difference between PyTorch and onnxruntime
    computed: int  # vectors, the others were kept from an earlier run
    vectors_seconds: float
    head_seconds: float
    threads: int


def write_head(
    args: argparse.Namespace,
    modality: Modality,
    version: int,
    encoded: Encoded,
    findings: Findings,
    graph: Path,
    held_out: Item,
    command: str,
) -> Path:
    """Write the model folder, and prove it by the serving path.

    Args:
        held_out: the example, where no flag names one.
        command: what trains this model again.
    """
    content = args.example or held_out.content
    example = f"example{content.suffix.lower() if isinstance(content, Path) else '.txt'}"
    manifest = Manifest(
        format=1,
        name=args.name,
        version=version,
        description=args.description or _describe(modality, findings.labels),
        preprocessing=VectorPreprocessing(
            modality="vector", input=INPUT, encoders=(encoded.reference,)
        ),
        graphs=(Graph(file=GRAPH, sha256=sha256(graph)),),
        tasks=Tasks(classify=Classify(output=OUTPUT, activation="log_softmax", labels=LABELS)),
        example=Example(file=example, tolerance={"fp32": TOLERANCE}),
        origin=Origin(
            source=f"trained here, on vectors of {encoded.reference.name}",
            licence=args.licence or "that of its data",
            data=args.credit or f"{modality}s in {args.data.resolve().name}",
        ),
        evaluation=tuple(_figures(findings)),
    )
    files: dict[str, Content] = {
        GRAPH: graph,
        LABELS: "".join(f"{label}\n" for label in findings.labels),
        example: content,
        manifest.card: _card(manifest, findings, args.example_source, command),
    }
    return write_folder(
        args.models,
        manifest,
        files,
        replace=args.replace,
        find_encoder=lambda _: encoded.encoder,
    )


def _describe(modality: Modality, labels: tuple[str, ...]) -> str:
    named = ", ".join(labels[:NAMED]) + (" ..." if len(labels) > NAMED else "")
    return f"Says of a {modality} which of {len(labels)} classes it is of: {named}."


def _figures(findings: Findings) -> list[Figure]:
    return [
        Figure(metric=metric, value=round(value, 4), data=f"{SPLITS[split]} split")
        for split, scores in findings.scores.items()
        for metric, value in _named(scores).items()
    ]


def _named(scores: Scores) -> dict[str, float]:
    return {
        "accuracy": scores.accuracy,
        "macro F1": scores.macro_f1,
        "expected calibration error": scores.calibration_error,
    }


def _card(manifest: Manifest, findings: Findings, example_source: str, command: str) -> str:
    """The card of a model in Markdown."""
    [encoder] = manifest.preprocessing.encoders  # type: ignore[union-attr]
    counts = ", ".join(f"{SPLITS[split]} {count:,}" for split, count in findings.counts.items())
    skipped = f"; {findings.skipped} more could not be used" if findings.skipped else ""
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        manifest.description,
        "",
        f"- **Answers**: the {len(findings.labels)} labels of [{LABELS}]({LABELS})",
        f"- **Network**: Linear, ReLU, Dropout(0.2), Linear, LogSoftmax on the vectors of"
        f" {encoder.name}, which must be served beside it",
        f"- **Data**: {manifest.origin.data}",
        f"- **Licence**: {manifest.origin.licence}",
        f"- **Example**: {example_source}",
        "",
        "## Figures",
        "",
        f"Items: {counts}{skipped}. Every choice was made on the validation split; a test split"
        " is scored once and decides nothing.",
        "",
        "| split | accuracy | macro F1 | expected calibration error |",
        "|---|---|---|---|",
        *(
            f"| {SPLITS[split]} | "
            + " | ".join(f"{value:.3f}" for value in _named(scores).values())
            + " |"
            for split, scores in findings.scores.items()
        ),
        "",
        f"Learning rate {findings.learning_rate:g}, best of {len(findings.outcome.epochs)} epochs:"
        f" {findings.outcome.best}. Scores are divided by a temperature of"
        f" {findings.temperature:.2f}, fitted on the validation split; its calibration error is"
        " therefore a little flattering. The greatest difference between PyTorch and onnxruntime"
        f" is {findings.parity:.1g}, on log-probabilities, in batches of 1, 2, 3, 8 and 16.",
        "",
        "## Limits",
        "",
        f"- It always answers with one of its {len(findings.labels)} labels, whatever it is given.",
        "- It sees what its encoder sees, and no more: see that model's card.",
        "",
        "## Reproduce",
        "",
        "```",
        command,
        "```",
        "",
        f"The vectors took {findings.vectors_seconds:.0f} s ({findings.computed:,} were computed,"
        f" the others kept from an earlier run), the head {findings.head_seconds:.0f} s on"
        f" --threads {findings.threads}. The same seed gives the"
        " same weights on the same machine, with as many threads and the same PyTorch.",
    ]
    return "\n".join(lines) + "\n"
