"""Classify: the output is a score per label; the answer is the likeliest labels."""

import codecs
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from typing_extensions import TypedDict  # pydantic requires it before Python 3.12

from service.errors import BadModel, BatchFailed
from service.model.specs import FileName, TaskSpec
from service.model.tasks.task import Floats, Task
from service.model.types import Row
from service.regular import read_regular
from service.runtime.tensors import Array, TensorSpec

LABELS_BYTES = 2**26
ROUNDING = 0.01  # how far beyond 0 and 1 a probability of a graph in int8 or fp16 may lie

Activation = Literal["softmax", "log_softmax", "sigmoid", "none"]


class ClassifySpec(TaskSpec):
    """`output` is float[N, classes]: one score a label, a probability after `activation`."""

    activation: Activation = "softmax"
    labels: FileName = "labels.txt"  # one a line, in the order of the output

    def files(self) -> Mapping[str, str]:
        return {"labels": self.labels}


class Label(TypedDict):
    label: str
    score: float  # a probability


class TopLabels(BaseModel):
    top_k: int = Field(5, ge=1, le=10_000, description="How many labels, the likeliest first.")


class Classify(Task):
    """A probability for each label."""

    name = "classify"
    summary = "Labels of {files}, the likeliest first."
    spec_type = ClassifySpec
    options_type = TopLabels
    answer_fields: ClassVar = {"labels": list[Label]}
    example: ClassVar = {
        "labels": [{"label": "tabby", "score": 0.61}, {"label": "lynx", "score": 0.2}]
    }

    def __init__(self, spec: ClassifySpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self._activation = spec.activation
        path = folder / spec.labels
        try:
            self.labels = read_labels(read_regular(path, LABELS_BYTES))
        except ValueError as error:
            raise BadModel(f"{path}: tasks.classify.labels: not UTF-8: {error}") from error

    @property
    def width(self) -> int:
        return len(self.labels)

    def interpret(self, row: Row) -> Floats:
        """float32[classes] probabilities."""
        scores = probabilities(row[self.output], self._activation)
        lowest, highest = np.minimum.reduce(scores), np.maximum.reduce(scores)
        if lowest >= -ROUNDING and highest <= 1 + ROUNDING:  # false for NaN
            return scores.clip(0, 1) if lowest < 0 or highest > 1 else scores
        outside = f"{lowest if lowest < 0 else highest:.3g}, which is no probability,"
        found = outside if np.isfinite([lowest, highest]).all() else "NaN or infinity"
        raise BatchFailed(
            f"output {self.output} holds {found} for this input, after activation"
            f" {self._activation}"
        )

    def render(self, answer: Floats, options: TopLabels) -> dict[str, Any]:
        return {"labels": rank(self.labels, answer, options.top_k)}

    def labels_of(self, options: TopLabels) -> int:
        return min(options.top_k, len(self.labels))

    def tensors(self) -> dict[str, TensorSpec]:
        return {
            "labels": TensorSpec("object", (None, 1)),  # the likeliest
            "scores": TensorSpec("float32", (None, len(self.labels))),
        }

    def to_tensors(self, answers: Sequence[Floats]) -> dict[str, Array]:
        scores = np.stack(answers)
        names = [[self.labels[best].encode()] for best in scores.argmax(axis=1)]
        return {"labels": np.array(names, object), "scores": scores}

    def columns(self, tensor: str) -> Sequence[str]:
        return self.labels if tensor == "scores" else ()

    def agrees(self, answer: Floats, other: Task, others_answer: Floats) -> bool:
        """Whether the likeliest labels are the same."""
        return self.labels[answer.argmax()] == other.labels[others_answer.argmax()]


def read_labels(content: bytes) -> tuple[str, ...]:
    """One label a line, in UTF-8, or in UTF-16 with a byte order mark. Blank lines may follow.

    Raises:
        ValueError: it is in another encoding.
    """
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if utf_16 else "utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds NUL characters")
    lines = re.split(r"\r\n|\r|\n", text)
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(lines)


def probabilities(scores: Array, activation: Activation) -> Floats:
    """float[..., classes] as the graph gives them -> float32 probabilities."""
    values = scores.astype(np.float32)
    with np.errstate(all="ignore"):  # `interpret` refuses what is not finite
        match activation:
            case "softmax":
                return softmax(values)
            case "log_softmax":
                return np.exp(values)
            case "sigmoid":
                return (1 / (1 + np.exp(-values))).astype(np.float32)
            case "none":
                return values


def softmax(values: Floats) -> Floats:
    """float32[..., classes] -> the same shape, each row's sum 1."""
    highest: Floats = np.maximum.reduce(values, axis=-1, keepdims=True)
    exponentials = np.exp(values - highest)
    shares: Floats = exponentials / np.add.reduce(exponentials, axis=-1, keepdims=True)
    return shares


def best(scores: NDArray[np.floating[Any]], count: int) -> list[int]:
    """The indices of the `count` highest scores, highest first; equal ones in their order."""
    if count < len(scores):  # sort only those that reach the last one's score
        least = np.partition(scores, -count)[-count]
        candidates = np.flatnonzero(scores >= least)
    else:
        candidates = np.arange(len(scores))
    indices: list[int] = candidates[(-scores[candidates]).argsort(kind="stable")][:count].tolist()
    return indices


def rank(labels: Sequence[str], scores: Floats, top_k: int) -> list[Label]:
    """The likeliest labels, highest first."""
    return [Label(label=labels[index], score=scores[index]) for index in best(scores, top_k)]
