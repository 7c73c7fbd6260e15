"""From a graph's outputs to the tasks that it can do."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from service.model.tasks import classify
from training.packaging.activation import propose_activation
from training.packaging.flags import Ask
from training.packaging.graph import Found, Unclear

LABELS = "labels.txt"
TASKS = (
    "the service classifies, of float[N, classes], and embeds, of float[N, width]; it has no task"
    " for other outputs, such as those of detection, segmentation or text generation"
)


def propose_tasks(
    args: argparse.Namespace, found: Found, labels: tuple[str, ...], ask: Ask
) -> dict[str, Any]:
    """The manifest's `tasks`; what is missing is asked for."""
    tasks: dict[str, Any] = {}
    if not args.labels and not args.embed:
        ask(
            "say --labels FILE (a label a line) if it classifies, --embed OUTPUT if it gives"
            f" vectors: the graph gives {found.gives}; {TASKS}"
        )
    if labels:
        output = _classify_output(args, found, labels, ask)
        activation = propose_activation(args, found, output, ask) if output else "softmax"
        tasks["classify"] = {"output": output, "activation": activation, "labels": LABELS}
    if args.embed:
        tasks["embed"] = {"output": args.embed, "width": _embed_width(args, found, ask)}
    return tasks


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels in their order, of a text with one a line or of Hugging Face's config.json.

    Raises:
        Unclear: it is neither.
    """
    content = path.read_bytes()
    try:
        if path.suffix.lower() != ".json":
            labels = tuple(line.strip() for line in classify.read_labels(content))
        else:
            names = json.loads(content)["id2label"]
            labels = tuple(names[str(number)] for number in range(len(names)))
    except (ValueError, KeyError, TypeError) as error:
        raise Unclear(
            f"--labels: {path} has neither a label a line nor an id2label: {error}"
        ) from error
    if not labels:
        raise Unclear(f"--labels: {path} holds no label")
    for number, label in enumerate(labels, start=1):
        if not isinstance(label, str) or not label.strip():
            raise Unclear(f"--labels: {path}: label {number} is {label!r}; each needs a name")
    return labels


def list_repeated(labels: tuple[str, ...]) -> str:
    """Labels that stand there more than once: answers cannot tell them apart."""
    return ", ".join(label for label, count in Counter(labels).items() if count > 1)


def _classify_output(
    args: argparse.Namespace, found: Found, labels: tuple[str, ...], ask: Ask
) -> str | None:
    fitting = [
        name
        for name, spec in found.outputs.items()
        if spec.dtype in ("float32", "float16")
        if len(spec.shape) == 2 and spec.shape[1] in (None, len(labels))
    ]
    if args.output in fitting:
        return str(args.output)
    if args.output or not fitting:
        ask(
            f"--labels: {args.labels} has {len(labels)} labels; the graph gives {found.gives};"
            f" {TASKS}"
        )
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
        f" gives {found.gives}: export it with its pooling; {TASKS}"
    )
    return None
