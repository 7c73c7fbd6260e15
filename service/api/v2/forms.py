"""Forms: under /v2 each model stands twice, as `name`, which takes files, and as `name:tensors`.

The first has the whole preprocessing: its inputs are BYTES named by what they are (image, text,
audio), each element a file or a text. The second is the graph with its own inputs and outputs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from service.api.outcomes import all_or_none
from service.api.v2.datatypes import DATATYPES
from service.control.repository import Repository
from service.errors import BatchFailed, Unreadable
from service.inference.batching import Reply
from service.inference.pipeline import Files, Pipeline, Prediction
from service.inference.servable import Servable
from service.model.manifest import Task
from service.model.types import TensorSample
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
        """What the columns of an output stand for; none where nobody says."""

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
        tasks = self.served.model.manifest.tasks
        outputs = {"truncated": TensorSpec("bool", (None, 1))}
        if tasks.classify:
            outputs["labels"] = TensorSpec("object", (None, 1))  # the likeliest
            outputs["scores"] = TensorSpec("float32", (None, len(self.served.model.labels)))
        if tasks.embed:
            outputs["vector"] = TensorSpec("float32", (None, tasks.embed.width))
        return outputs

    def labels(self, output: str) -> Sequence[str]:
        return self.served.model.labels if output == "scores" else ()

    async def answer(
        self,
        pipeline: Pipeline,
        inputs: Mapping[str, Array],
        outputs: Collection[str],
        deadline: float,
        window: int,
    ) -> dict[str, Array]:
        needs: dict[Task, set[str]] = {"classify": {"labels", "scores"}, "embed": {"vector"}}
        able = tuple(self.served.model.manifest.tasks.outputs())
        tasks = tuple(task for task in able if needs[task] & set(outputs)) or able[:1]
        columns = [column.ravel() for column in inputs.values()]
        rows = [dict(zip(inputs, row, strict=True)) for row in zip(*columns, strict=True)]
        asks = [(self.served, task) for task in tasks]

        async def predict(row: dict[str, bytes]) -> list[Prediction]:
            return await pipeline.predict(asks, cast(Files, row), deadline)

        answers = await all_or_none(self.served, predict, rows, window=window)
        predictions = [dict(zip(tasks, answer, strict=True)) for answer in answers]
        found = {"truncated": np.array([[of[tasks[0]].truncated] for of in predictions])}
        if "classify" in tasks:
            found["scores"] = np.stack([of["classify"].values for of in predictions])
            names = [self.served.model.labels[best] for best in found["scores"].argmax(axis=1)]
            found["labels"] = np.array([[name.encode()] for name in names], object)
        if "embed" in tasks:
            found["vector"] = np.stack([of["embed"].values for of in predictions])
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
        classify = self.served.model.manifest.tasks.classify
        return self.served.model.labels if classify and classify.output == output else ()

    async def answer(
        self,
        pipeline: Pipeline,
        inputs: Mapping[str, Array],
        outputs: Collection[str],
        deadline: float,
        window: int,
    ) -> dict[str, Array]:
        async def compute(row: TensorSample) -> Reply:
            return await self._compute(pipeline, row, deadline)

        rows = self.served.model.split(inputs, sorted(outputs))
        replies = await all_or_none(self.served, compute, rows, window=window)
        return {name: np.stack([reply.row[name] for reply in replies]) for name in outputs}

    async def _compute(self, pipeline: Pipeline, row: TensorSample, deadline: float) -> Reply:
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
