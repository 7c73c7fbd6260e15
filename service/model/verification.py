"""Verification: what a model must prove at load before it serves."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Protocol

from service.errors import BadModel, BatchFailed
from service.model.manifest import Graph, Manifest
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.tasks.task import Task
from service.model.types import Sample
from service.regular import read_regular
from service.runtime.session import Session
from service.runtime.tensors import Array, TensorSpec

EXPECTED_BYTES = 2**24


class Candidate(Protocol):
    """A model that has proved nothing yet."""

    @property
    def folder(self) -> Path: ...

    @property
    def manifest(self) -> Manifest: ...

    @property
    def graph(self) -> Graph: ...

    @property
    def preprocessor(self) -> Preprocessor: ...

    @property
    def session(self) -> Session: ...

    @property
    def tasks(self) -> Mapping[str, Task]: ...

    def run(
        self, samples: Sequence[Sample], *, exclusive: bool = False
    ) -> list[dict[str, Array]]: ...


def check_tensors(model: Candidate) -> None:
    """The graph's inputs and outputs are those of the manifest, by name, type and shape."""
    where = model.folder / model.graph.file
    declared = model.preprocessor.inputs()
    if set(declared) != set(model.session.inputs):
        raise BadModel(
            f"{where}: preprocessing: the graph takes {_names(model.session.inputs)},"
            f" the manifest gives {_names(declared)}"
        )
    for name, wanted in declared.items():
        found = model.session.inputs[name]
        if found.dtype != wanted.dtype or not wanted.fits((None, *found.shape[1:])):
            raise BadModel(
                f"{where}: preprocessing: input {name} is {_show(found)},"
                f" the manifest gives {_show(wanted)}"
            )
        batch = found.shape[0]
        if batch is not None and not batch == model.manifest.batching.max_batch == 1:
            raise BadModel(
                f"{where}: batching.max_batch: the graph takes batches of {batch} only;"
                " export it with a dynamic batch"
            )
    for name, task in model.tasks.items():
        output = task.output
        if output not in model.session.outputs:
            raise BadModel(
                f"{where}: tasks.{name}.output: the graph gives {_names(model.session.outputs)},"
                f" not {output}"
            )
        given = model.session.outputs[output]
        if given.dtype not in ("float32", "float16") or not given.fits((None, task.width)):
            raise BadModel(
                f"{where}: tasks.{name}: output {output} is {_show(given)},"
                f" the manifest says float of [N, {task.width}]"
            )


def _names(tensors: Iterable[str]) -> str:
    return ", ".join(sorted(tensors))


def _show(tensor: TensorSpec) -> str:
    return f"{tensor.dtype}[{', '.join('N' if s is None else str(s) for s in tensor.shape)}]"


def check_example(model: Candidate, example: Sample, payload: bytes) -> None:
    """The example is answered as expected, whatever else is in its batch. Warms the session.

    Raises:
        BadModel: it is not, or a batch or a long text fails.
    """
    expected = _read_expected(model)
    for batch in _batches(model, example, payload):
        for exclusive in (False, True) if len(batch) <= 2 else (False,):
            for sample, row in zip(
                batch, _run(model, batch, example, exclusive=exclusive), strict=True
            ):
                if sample is example:
                    _compare(model, row, expected, len(batch))
    if longest := model.preprocessor.longest(payload):
        _check_longest(model, longest)


def _batches(model: Candidate, example: Sample, payload: bytes) -> Iterator[list[Sample]]:
    """The example by itself, before one other item, and at both ends of the largest batch."""
    largest = model.manifest.batching.max_batch
    yield [example]
    if largest == 1:
        yield [example]  # one that answers by chance, or keeps a state, differs now
        return
    others = model.preprocessor.neighbours(example, payload)
    yield [example, others[0]]
    ends = [example] if largest > 2 else []
    yield [*ends, *islice(cycle(others[-2:]), largest - 1 - len(ends)), example]


def _run(
    model: Candidate, batch: Sequence[Sample], example: Sample, *, exclusive: bool
) -> list[dict[str, Array]]:
    """The rows of a batch; if it fails, of one that holds nothing but the example."""
    try:
        try:
            return model.run(batch, exclusive=exclusive)
        except Exception:  # an item that the graph cannot compute says nothing about the others
            return model.run([example] * len(batch), exclusive=exclusive)
    except Exception as error:  # onnxruntime's own exceptions share no public base
        hint = "" if len(batch) == 1 else "; a graph for single items needs max_batch: 1"
        raise BadModel(
            f"{model.folder / model.graph.file}: batching: a batch of {len(batch)}"
            f" fails{hint}: {error}"
        ) from error


def _check_longest(model: Candidate, longest: Sample) -> None:
    """Raises:
    BadModel: the graph cannot read as many tokens as the manifest says.
    """
    try:
        model.run([longest])
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise BadModel(
            f"{model.folder / model.graph.file}: preprocessing.max_length: a text of"
            f" {longest.cost} tokens fails; lower it to what the graph can read: {error}"
        ) from error


def _compare(
    model: Candidate, row: dict[str, Array], expected: Mapping[str, Any], size: int
) -> None:
    path = model.folder / model.manifest.example.expected
    tolerance = model.manifest.example.tolerance[model.graph.precision]
    for name, answer in expected.items():
        task = model.tasks[name]
        try:
            difference = task.difference(answer, task.interpret(row))
        except (BatchFailed, ValueError) as error:
            raise BadModel(f"{path}: example.expected: tasks.{name}: {error}") from error
        if difference <= tolerance:  # a NaN is no answer either
            continue
        reason = (
            f"{path}: example.expected: {name} differs by {difference:.2g}"
            f" in a batch of {size}; {tolerance:.2g} is allowed"
        )
        if size == 1:
            reason += ". If it changes from run to run, export it in evaluation mode"
        else:
            reason += (
                ". The graph mixes the items of a batch: export it in evaluation mode (PyTorch:"
                " model.eval()) and with its attention_mask applied, or say batching.max_batch: 1."
                " Dynamic quantisation does so a little: example.tolerance can allow for it"
            )
        raise BadModel(reason)


def _read_expected(model: Candidate) -> dict[str, Any]:
    path = model.folder / model.manifest.example.expected
    try:
        content: Any = json.loads(read_regular(path, EXPECTED_BYTES))
        if set(content) != set(model.tasks):
            raise BadModel(f"{path}: example.expected: must name exactly the manifest's tasks")
        return {name: model.tasks[name].from_json(answer) for name, answer in content.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadModel(f"{path}: example.expected: not {{task: [number, ...]}}: {error}") from error
