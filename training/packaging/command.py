"""Inspect a graph, propose its manifest, write the model folder, prove it."""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from service.errors import SensoriumError
from service.model.manifest import Manifest
from service.model.preprocessing.text import TextPreprocessing
from service.model.tasks.embed import EmbedSpec
from training.errors import TrainingError
from training.folder import Content, choose_version, write_folder
from training.packaging.graph import GRAPH, Found, Unclear, Whole, inspect, make_whole
from training.packaging.inputs import TOKENIZER
from training.packaging.outputs import LABELS, list_repeated
from training.packaging.proposal import ONE_AT_A_TIME, list_assumed, propose


def run(args: argparse.Namespace) -> None:
    """Inspect, propose, write, prove.

    Raises:
        Unclear: with a sentence for every flag that is missing.
        FolderExists: the version is there already.
        BadModel: the service would refuse the folder; nothing is written.
    """
    version = choose_version(args.models / args.name, args.version)
    with tempfile.TemporaryDirectory() as scratch:
        graph = make_whole(args.file, Path(scratch))
        found = inspect(graph)
        print(f"{args.file.name} takes {found.takes}")
        print(f"{args.file.name} gives {found.gives}")
        manifest, labels = propose(args, found, graph, version)
        print(f"\n{_show(manifest)}")
        for note in _notes(manifest, found, labels):
            print(f"NOTE: {note}")
        if assumed := list_assumed(args, manifest):
            print(f"assumed, for the graph cannot say it: {assumed}")
        folder = _write(args, manifest, labels, graph)
    print(f"{folder} is written, and loads as the service loads it")
    _print_answer(folder / manifest.example.expected, labels)


def _notes(manifest: Manifest, found: Found, labels: tuple[str, ...]) -> Iterator[str]:
    """What works, and is perhaps not what was meant."""
    if None not in {spec.shape[0] for spec in found.inputs.values()}:
        yield ONE_AT_A_TIME
    if repeated := list_repeated(labels):
        yield f"answers cannot tell labels of one name apart: {repeated}"
    spec = manifest.preprocessing
    if isinstance(spec, TextPreprocessing) and "attention_mask" not in spec.inputs:
        yield (
            "the graph has no attention_mask, so only texts with the same number of tokens share a"
            " batch; export it with one for higher throughput"
        )


def _write(
    args: argparse.Namespace, manifest: Manifest, labels: tuple[str, ...], graph: Whole
) -> Path:
    files: dict[str, Content] = {
        GRAPH: graph.path,
        **{side.file: graph.path.parent / side.file for side in graph.declared.side_files or ()},
        manifest.example.file: args.example,
        manifest.card: _write_card(args, manifest, labels),
    }
    if labels:
        files[LABELS] = "".join(f"{label}\n" for label in labels)
    if args.tokenizer:
        files[TOKENIZER] = args.tokenizer
    try:
        return write_folder(args.models, manifest, files)
    except (TrainingError, SensoriumError, OSError):
        raise
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise Unclear(f"the graph cannot answer {args.example}: {error}") from error


def _write_card(args: argparse.Namespace, manifest: Manifest, labels: tuple[str, ...]) -> str:
    answers = f"{len(labels)} labels" if labels else ""
    if isinstance(embed := manifest.tasks.get("embed"), EmbedSpec):
        vector = f"a vector of {embed.width} numbers"
        answers = f"{answers}, {vector}" if answers else vector
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        manifest.description,
        "",
        f"- **Takes**: {args.modality}",
        f"- **Answers**: {answers}",
        f"- **Source**: {manifest.origin.source}",
        f"- **Data**: {manifest.origin.data}",
        f"- **Licence**: {manifest.origin.licence}",
        "",
        "Packaged by `python -m training package` from a graph that was trained elsewhere. Its",
        "preprocessing stands in `manifest.yaml`; no figures were measured here:",
        f"`python -m training evaluate {manifest.name} --data DIR` does it.",
    ]
    return "\n".join(lines) + "\n"


def _show(manifest: Manifest) -> str:
    content = manifest.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _print_answer(expected: Path, labels: tuple[str, ...]) -> None:
    """What it says of the example, for the eye: a wrong mean or layout shows here."""
    answer = json.loads(expected.read_text())
    if "classify" in answer:
        best = sorted(zip(answer["classify"], labels, strict=True), reverse=True)[:3]
        print("the example is " + ", ".join(f"{label} {score:.3f}" for score, label in best))
    if "embed" in answer:
        vector = answer["embed"]
        length = math.hypot(*vector)
        print(f"the example's vector has {len(vector)} numbers and length {length:.3f}")
