"""Task: what a model can be asked for; `tasks/__init__.py` says how to add one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from service.model.specs import TaskSpec
from service.model.types import Row
from service.runtime.tensors import Array, TensorSpec

Floats = NDArray[np.float32]

TASKS: "dict[str, type[Task]]" = {}  # by name


class NoOptions(BaseModel):
    """The task has no query parameters of its own."""


class Task(ABC):
    """One task of one model: reads an output of the graph and writes the answer. Thread-safe.

    An answer is a float32 array; a task with other answers overrides `from_json` and `difference`.
    """

    name: ClassVar[str]  # in paths and manifests, a verb: /v1/image/classify
    summary: ClassVar[str]  # of its routes, with {files} for the plural of the modality
    spec_type: ClassVar[type[TaskSpec]]
    options_type: ClassVar[type[BaseModel]] = NoOptions  # query parameters of its routes
    answer_fields: ClassVar[Mapping[str, Any]]  # of a result in /v1: name -> type
    example: ClassVar[Mapping[str, Any]]  # such a result, for the OpenAPI document

    def __init_subclass__(cls) -> None:
        TASKS[cls.name] = cls

    labels: tuple[str, ...] = ()  # names of the classes, in the order of the output

    def __init__(self, spec: TaskSpec, folder: Path) -> None:  # noqa: ARG002
        """Args:
            folder: holds the files that the spec names.

        Raises:
            BadModel: one of them cannot be read.
        """
        self.output = spec.output

    @property
    @abstractmethod
    def width(self) -> int:
        """Values of the output for one item; the load check compares it with the graph."""

    @abstractmethod
    def interpret(self, row: Row) -> Any:
        """The answer to one item.

        Raises:
            BatchFailed: the row holds NaN, infinity or values that the task does not allow.
        """

    @abstractmethod
    def render(self, answer: Any, options: Any) -> dict[str, Any]:
        """The answer as fields of a JSON result, arrays included."""

    def labels_of(self, options: Any) -> int:  # noqa: ARG002
        """How many labels `render` gives for one item: answers are limited by it."""
        return 0

    @abstractmethod
    def tensors(self) -> dict[str, TensorSpec]:
        """The outputs under `/v2`: name -> [N, ...]."""

    @abstractmethod
    def to_tensors(self, answers: Sequence[Any]) -> dict[str, Array]:
        """Several answers as these outputs."""

    def columns(self, tensor: str) -> Sequence[str]:  # noqa: ARG002
        """The labels of a tensor's columns; empty where they have none."""
        return ()

    @abstractmethod
    def agrees(self, answer: Any, other: "Task", others_answer: Any) -> bool:
        """Whether two models, this one and another with the same task, say the same."""

    def to_json(self, answer: Any) -> Any:
        """The answer as `example.json` keeps it."""
        return answer.tolist()

    def from_json(self, content: Any) -> Any:
        """The answer that `example.json` holds.

        Raises:
            ValueError, TypeError: the content is not an answer.
        """
        return np.asarray(content, np.float32)

    def difference(self, expected: Any, answer: Any) -> float:
        """How far two answers are apart, as a manifest's tolerance measures it.

        Raises:
            ValueError: they cannot be compared.
        """
        if expected.shape != answer.shape:
            raise ValueError(f"it has {expected.size} numbers, the model answers {answer.size}")
        return float(np.abs(expected - answer).max())
