"""From a graph's outputs to the tasks that it can do."""

import argparse
import json
from pathlib import Path
from typing import Any

from training.packaging.flags import Ask
from training.packaging.graph import Found, Unclear

LABELS = "labels.txt"
# What is left to do where the graph ends with such an operator; a second softmax would flatten.
ACTIVATIONS = {"Softmax": "none", "LogSoftmax": "log_softmax", "Sigmoid": "none"}


def propose_tasks(
    args: argparse.Namespace, found: Found, labels: tuple[str, ...], ask: Ask
) -> dict[str, Any]:
    """The manifest's `tasks`; what is missing is asked for."""
    tasks: dict[str, Any] = {}
    if not args.labels and not args.embed:
        ask(
            "say --labels FILE (a label a line) if it classifies, --embed OUTPUT if it gives"
            f" vectors: the graph gives {found.gives}"
        )
    if labels:
        output = _classify_output(args, found, labels, ask)
        left = ACTIVATIONS.get(found.makers.get(output or "", ""), "softmax")
        tasks["classify"] = {
            "output": output,
            "activation": args.activation or left,
            "labels": LABELS,
        }
    if args.embed:
        tasks["embed"] = {"output": args.embed, "width": _embed_width(args, found, ask)}
    return tasks


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels in their order, of a text with one a line or of Hugging Face's config.json.

    Raises:
        Unclear: it is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() != ".json":
            return tuple(text.splitlines())
        names = json.loads(text)["id2label"]
        return tuple(names[str(number)] for number in range(len(names)))
    except (ValueError, KeyError, TypeError) as error:
        raise Unclear(
            f"--labels: {path} has neither a label a line nor an id2label: {error}"
        ) from error


def _classify_output(
    args: argparse.Namespace, found: Found, labels: tuple[str, ...], ask: Ask
) -> str | None:
    fitting = [
        name
        for name, spec in found.outputs.items()
        if len(spec.shape) == 2 and spec.shape[1] in (None, len(labels))
    ]
    if args.output in fitting:
        return str(args.output)
    if args.output or not fitting:
        ask(f"--labels: {args.labels} has {len(labels)} labels; the graph gives {found.gives}")
        return None
    if len(fitting) > 1:
        ask(f"say --output, one of {', '.join(fitting)}: each has room for {len(labels)} labels")
    return fitting[0]


def _embed_width(args: argparse.Namespace, found: Found, ask: Ask) -> int | None:
    spec = found.outputs.get(args.embed)
    if spec and len(spec.shape) == 2 and spec.shape[1]:
        return spec.shape[1]
    ask(
        f"--embed {args.embed}: the service takes float[N, width], the width known; the graph"
        f" gives {found.gives}: export it with its pooling"
    )
    return None
