"""Forms: under /v2 each model stands twice, as `name`, which takes files, and as `name:tensors`.

The first has the whole preprocessing: its inputs are BYTES named by what they are (image, text,
audio), each element a file or a text. The second is the graph with its own inputs and outputs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from service.api.outcomes import all_or_none
from service.api.v2.datatypes import DATATYPES
from service.control.repository import Repository
from service.errors import BatchFailed, Unreadable
from service.inference.pipeline import Files, Pipeline
from service.inference.servable import Servable
from service.model.types import Result, TensorSample
from service.runtime.tensors import Array, TensorSpec

TENSORS = ":tensors"  # no model folder can have such a name


class Form(Protocol):
    """One of the two ways in which a model can be asked."""

    @property
    def served(self) -> Servable: ...

    @property
    def name(self) -> str: ...

    @property
    def inputs(self) -> Mapping[str, TensorSpec]: ...

    @property
    def optional(self) -> Collection[str]:
        """Inputs of which some may be missing, though not all."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]: ...

    def labels(self, output: str) -> Sequence[str]:
        """The labels of an output's columns; empty where they have none."""

    async def answer(
        self,
        pipeline: Pipeline,
        inputs: Mapping[str, Array],
        outputs: Collection[str],
        deadline: float,
        window: int,
    ) -> dict[str, Array]:
        """The outputs for inputs that fit, each [N, ...]; `window` items are asked for at once.

        Raises:
            CallerError: an item cannot be used; the sentence names it.
            LoadError: not now.
        """


@dataclass(frozen=True, slots=True)
class FileForm:
    """Files in, what the tasks say out."""

    served: Servable

    @property
    def name(self) -> str:
        return self.served.model.manifest.name

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        one = TensorSpec("object", (None, 1))
        return dict.fromkeys(self.served.model.manifest.modalities, one)

    @property
    def optional(self) -> Collection[str]:
        return self.inputs if len(self.inputs) > 1 else ()

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        outputs = {"truncated": TensorSpec("bool", (None, 1))}
        for task in self.served.model.tasks.values():
            outputs |= task.tensors()
        return outputs

    def labels(self, output: str) -> Sequence[str]:
        tasks = self.served.model.tasks.values()
        return next((task.columns(output) for task in tasks if output in task.tensors()), ())

    async def answer(
        self,
        pipeline: Pipeline,
        inputs: Mapping[str, Array],
        outputs: Collection[str],
        deadline: float,
        window: int,
    ) -> dict[str, Array]:
        able = self.served.model.tasks
        tasks = {name: task for name, task in able.items() if {*task.tensors()} & {*outputs}}
        asks = [(self.served, name) for name in tasks or [*able][:1]]
        columns = [column.ravel() for column in inputs.values()]
        rows = [dict(zip(inputs, row, strict=True)) for row in zip(*columns, strict=True)]

        async def predict(row: Files) -> list[Result]:
            return await pipeline.predict(asks, row, deadline)

        results = await all_or_none(self.served, predict, rows, window=window)
        found: dict[str, Array] = {"truncated": np.array([[of[0].truncated] for of in results])}
        for number, task in enumerate(tasks.values()):
            found |= task.to_tensors([of[number].answer for of in results])
        return found


@dataclass(frozen=True, slots=True)
class TensorForm:
    """The graph itself: its inputs, and those of its outputs that have a row for each item."""

    served: Servable

    @property
    def name(self) -> str:
        return self.served.model.manifest.name + TENSORS

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self.served.model.preprocessor.inputs()

    @property
    def optional(self) -> Collection[str]:
        return ()

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        found = self.served.model.rowwise_outputs()
        return {name: spec for name, spec in found.items() if spec.dtype in DATATYPES}

    def labels(self, output: str) -> Sequence[str]:
        tasks = self.served.model.tasks.values()
        return next((task.labels for task in tasks if task.output == output), ())

    async def answer(
        self,
        pipeline: Pipeline,
        inputs: Mapping[str, Array],
        outputs: Collection[str],
        deadline: float,
        window: int,
    ) -> dict[str, Array]:
        async def compute(row: TensorSample) -> Result:
            return await self._compute(pipeline, row, deadline)

        rows = self.served.model.split(inputs, sorted(outputs))
        replies = await all_or_none(self.served, compute, rows, window=window)
        return {name: np.stack([reply.row[name] for reply in replies]) for name in outputs}

    async def _compute(self, pipeline: Pipeline, row: TensorSample, deadline: float) -> Result:
        """Raises:
        Unreadable: the graph, which computes its example, fails on what this caller made.
        """
        try:
            return await pipeline.compute(self.served, row, deadline)
        except BatchFailed as error:
            raise Unreadable(str(error)) from error


def find_form(repository: Repository, name: str, version: str | None, request_id: str = "") -> Form:
    """The form of that name, of a model that is ready.

    Raises:
        NotFound, NotReady: there is none, or not now.
    """
    served = repository.pick(name.removesuffix(TENSORS), version, request_id)
    return TensorForm(served) if name.endswith(TENSORS) else FileForm(served)


def shape_of(spec: TensorSpec) -> list[int]:
    """A shape as the protocol writes it: -1 is any size."""
    return [-1, *(-1 if size is None else size for size in spec.shape[1:])]
