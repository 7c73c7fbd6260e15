"""The manifest that a graph and the flags make together, or what is still to be said."""

import argparse

from pydantic import ValidationError

from service.model.manifest import Manifest
from service.model.preprocessing.audio import AudioPreprocessing
from service.model.tasks.classify import ClassifySpec
from training.packaging.flags import MAX_BATCH, UNSTATED, refuse_foreign, spell
from training.packaging.graph import Found, Unclear, Whole
from training.packaging.inputs import propose_preprocessing
from training.packaging.outputs import propose_tasks, read_labels

ONE_AT_A_TIME = (
    "the graph takes one item at a time, so nothing is batched and throughput is low; export it"
    ' with a dynamic batch (PyTorch: torch.onnx.export(..., dynamic_axes={"INPUT": {0: "batch"}}))'
)


def propose(
    args: argparse.Namespace, found: Found, graph: Whole, version: int
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of that graph, and its labels.

    Raises:
        Unclear: with a sentence for every flag that is missing.
    """
    missing: list[str] = []
    ask = missing.append
    refuse_foreign(args)
    for flag in ("example", "labels", "tokenizer"):
        path = getattr(args, flag)
        if path and not path.is_file():
            ask(f"--{flag}: there is no file {path}")
    if not args.example:
        ask(f"say --example FILE: one {args.modality} whose answer is kept as a proof")
    preprocessing = propose_preprocessing(args, found, ask)
    labels = read_labels(args.labels) if args.labels and args.labels.is_file() else ()
    tasks = propose_tasks(args, found, labels, ask)
    if missing:
        raise Unclear(_list(missing))
    sides = graph.declared.side_files or ()
    content = {
        "format": 1,
        "name": args.name,
        "version": version,
        "description": args.description or f"Packaged from {args.file.name}.",
        "preprocessing": preprocessing,
        "graphs": [
            {
                **graph.declared.model_dump(exclude_none=True),
                "precision": args.precision,
            }
        ],
        "tasks": tasks,
        "batching": {"max_batch": _max_batch(args, found)},
        "example": {
            "file": f"example{args.example.suffix.lower()}",
            "tolerance": {args.precision: args.tolerance},
        },
        "origin": {
            "source": args.source or args.file.name,
            # of the weights, so that heads can name it as their encoder
            "sha256": sides[0].sha256 if sides else graph.declared.sha256,
            "licence": args.licence,
            "data": args.data,
        },
    }
    try:
        return Manifest.model_validate(content), labels
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise Unclear(_list(lines)) from error


def list_assumed(args: argparse.Namespace, manifest: Manifest) -> str:
    """What was neither said nor found, with the flags that change it."""
    spec = manifest.preprocessing
    values = {
        flag: getattr(spec, flag)
        for flag in ("crop", "fit", "resample", "keep")
        if hasattr(spec, flag)
    }
    if isinstance(spec, AudioPreprocessing) and (mel := spec.log_mel):
        values |= {"low_hz": mel.low_hz, "high_hz": mel.high_hz, "floor": mel.floor}
        values |= {"log_mean": mel.mean, "log_std": mel.std}
    classify = manifest.tasks.get("classify")
    if isinstance(classify, ClassifySpec) and classify.activation == "softmax":
        values["activation"] = "softmax"  # any other was said, or stands in the graph
    values |= {"licence": manifest.origin.licence, "data": manifest.origin.data}
    unsaid = {f: v for f, v in values.items() if getattr(args, f) in (None, UNSTATED)}
    return ", ".join(f"{spell(flag)} {value}" for flag, value in unsaid.items())


def _max_batch(args: argparse.Namespace, found: Found) -> int:
    """As asked for, but 1 for a graph that was exported for one item only."""
    fixed = {spec.shape[0] for spec in found.inputs.values()} - {None}
    if fixed - {1}:
        raise Unclear(
            f"the graph takes {found.takes}, batches of one size only: export it"
            " with a dynamic batch"
        )
    if fixed and (args.max_batch or 1) > 1:
        raise Unclear(f"--max-batch {args.max_batch}: {ONE_AT_A_TIME}")
    return 1 if fixed else args.max_batch or MAX_BATCH


def _list(sentences: list[str]) -> str:
    return sentences[0] if len(sentences) == 1 else "".join(f"\n  - {line}" for line in sentences)
