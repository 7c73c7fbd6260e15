"""Embed: the output is a vector; near vectors mean alike inputs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from service.errors import BatchFailed
from service.model.specs import Positive, TaskSpec
from service.model.tasks.task import Floats, Task
from service.model.types import Row
from service.runtime.tensors import Array, TensorSpec

AGREEMENT = 0.99  # cosine of two vectors that say the same


class EmbedSpec(TaskSpec):
    """`output` is float[N, width]: one vector an input."""

    width: Positive


class Embed(Task):
    """A vector, as the graph gives it."""

    name = "embed"
    summary = "Vectors of {files}: like inputs have near vectors."
    spec_type = EmbedSpec
    answer_fields: ClassVar = {"vector": list[float]}
    example: ClassVar = {"vector": [0.021, -0.043, 0.008]}

    def __init__(self, spec: EmbedSpec, folder: Path) -> None:
        super().__init__(spec, folder)
        self._width = spec.width

    @property
    def width(self) -> int:
        return self._width

    def interpret(self, row: Row) -> Floats:
        """A float32[width] vector."""
        vector = row[self.output].astype(np.float32)
        if not np.isfinite(vector).all():
            raise BatchFailed(f"output {self.output} holds NaN or infinity for this input")
        return vector

    def render(self, answer: Floats, options: Any) -> dict[str, Any]:  # noqa: ARG002
        return {"vector": answer}

    def tensors(self) -> dict[str, TensorSpec]:
        return {"vector": TensorSpec("float32", (None, self._width))}

    def to_tensors(self, answers: Sequence[Floats]) -> dict[str, Array]:
        return {"vector": np.stack(answers)}

    def agrees(self, answer: Floats, other: Task, others_answer: Floats) -> bool:  # noqa: ARG002
        """Whether the vectors point in nearly the same direction."""
        same_width = answer.shape == others_answer.shape
        return same_width and cosines([answer], [others_answer]).item() >= AGREEMENT


def cosines(left: Sequence[Floats], right: Sequence[Floats]) -> Floats:
    """Cosine of the angle of every pair: float32[len(left), len(right)], each in -1..1."""
    similarity: Floats = np.clip(unit(left) @ unit(right).T, -1, 1)
    return similarity


def unit(vectors: Sequence[Floats]) -> Floats:
    """The vectors scaled to length 1: float32[len(vectors), width]."""
    rows = np.stack(vectors).astype(np.float64)  # squares of large float32 overflow
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: Floats = (rows / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return directions
