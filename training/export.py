"""Export: a PyTorch network becomes an ONNX graph, checked to compute the same."""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from service.limits import core_budget
from service.runtime.session import Session
from service.runtime.tensors import Array
from service.settings import Provider
from training.errors import ExportFailed, ParityFailed

OPSET = 20  # has everything that we use; onnxruntime reads it since 1.17
Feeds = Mapping[str, Array]
DynamicAxes = Mapping[str, Mapping[int, str]]


def export(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: DynamicAxes,
    path: Path,
) -> None:
    """Write the network, as it is in evaluation, to `path`.

    Args:
        inputs: one batch to trace with, of two items or more; the names are those of `forward`'s
            arguments, in their order, and become those of the graph's inputs.
        outputs: the names of what `forward` returns, in its order.
        dynamic: the axes of each input that change, named: `{"pixels": {0: "batch"}}`. An axis
            name that two inputs share stands for one size.

    Raises:
        ExportFailed: the graph is not valid, or a dynamic axis or a type was lost on the way.
    """
    axes = {axis: torch.export.Dim(axis) for named in dynamic.values() for axis in named.values()}
    shapes = {
        name: {index: axes[axis] for index, axis in dynamic.get(name, {}).items()}
        for name in inputs
    }
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            kwargs=dict(inputs),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        # Otherwise every node names source files and lines of this checkout.
        ClearMetadataAndDocStringPass()(program.model)
        program.save(path, external_data=False)
    _check(path, dynamic)


def check_parity(
    network: nn.Module,
    graph: Path,
    batches: Iterable[Feeds],
    limit: float,
    read: Callable[[Array], Array] = np.asarray,
) -> float:
    """The largest absolute difference between onnxruntime and PyTorch, over all outputs.

    Args:
        batches: real input, as the preprocessing's `collate` makes it; several sizes, so that an
            axis that only seems dynamic is found out.
        limit: how far apart the two may be.
        read: what is made of an output before it is compared, such as probabilities of their
            logarithms: those of labels that nobody would give differ most, and matter least.

    Raises:
        ParityFailed: they differ by more than `limit`, or in shape.
    """
    network.eval()
    session = Session(graph, Provider.CPU, core_budget())
    names = list(session.outputs)
    greatest = 0.0
    for feeds in batches:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
        try:
            found = session.run(feeds, names)
        except Exception as error:  # onnxruntime's own classes are not public
            raise ParityFailed(f"{graph.name} cannot run on {shapes}: {error}") from error
        for name, expected, actual in zip(names, _forward(network, feeds), found, strict=True):
            if expected.shape != actual.shape:
                raise ParityFailed(
                    f"{graph.name}: {name} has shape {list(actual.shape)} for {shapes};"
                    f" PyTorch gives {list(expected.shape)}"
                )
            difference = float(np.abs(read(expected) - read(actual)).max())
            if not difference <= limit:  # so that not-a-number fails as well
                raise ParityFailed(
                    f"{graph.name}: {name} differs from PyTorch by {difference:.2g} for {shapes};"
                    f" the limit is {limit:.2g}"
                )
            greatest = max(greatest, difference)
    return greatest


def _forward(network: nn.Module, feeds: Feeds) -> list[Array]:
    with torch.inference_mode():
        answer = network(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    return [tensor.numpy() for tensor in (answer if isinstance(answer, tuple) else (answer,))]


def _check(path: Path, dynamic: DynamicAxes) -> None:
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportFailed(f"{path.name} is not a valid graph: {error}") from error
    graph = onnx.load(path).graph
    for value in graph.input:
        for index in dynamic.get(value.name, {}):
            if not value.type.tensor_type.shape.dim[index].dim_param:
                raise ExportFailed(f"{path.name}: axis {index} of {value.name} became a constant")
    if doubles := sorted(_doubles(graph)):
        raise ExportFailed(f"{path.name} computes in float64: {', '.join(doubles)}")


def _doubles(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of all tensors of float64: twice the work, and never meant."""
    double = onnx.TensorProto.DOUBLE
    for tensor in graph.initializer:
        if tensor.data_type == double:
            yield tensor.name
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type == double:
            yield value.name


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's notes are for its own authors; its failures are exceptions."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
