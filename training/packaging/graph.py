"""What somebody's ONNX file takes and gives, as onnxruntime sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx.external_data_helper import uses_external_data

from service.preprocessing import TensorSpec
from service.session import Session
from service.settings import Provider
from training.errors import TrainingError

GRAPH = "model.onnx"


class Unclear(TrainingError):
    """The graph and the flags do not say enough, or contradict each other."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a graph says of itself: names, types and shapes (None: any size)."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    makers: Mapping[str, str]  # tensor -> the operator that makes it

    @property
    def takes(self) -> str:
        """`pixels float32[N, 3, 224, 224]`, one input after the other."""
        return _list_tensors(self.inputs)

    @property
    def gives(self) -> str:
        """`logits float32[N, 4]`, one output after the other."""
        return _list_tensors(self.outputs)

    def one_input(self, ranks: tuple[int, ...], given: str) -> tuple[str, TensorSpec]:
        """The only input.

        Raises:
            Unclear: there are several, or it is not of such a rank.
        """
        [(name, spec), *more] = self.inputs.items()
        if more or len(spec.shape) not in ranks:
            raise Unclear(f"the graph takes {self.takes}; the service gives {given}")
        return name, spec


def inspect(graph: Path) -> Found:
    """What the graph takes and gives.

    Raises:
        BadModel: onnxruntime cannot read it.
    """
    session = Session(graph, Provider.CPU, threads=1)
    nodes = onnx.load(graph, load_external_data=False).graph.node
    makers = {output: node.op_type for node in nodes for output in node.output}
    return Found(session.inputs, session.outputs, makers)


def make_whole(graph: Path, scratch: Path) -> Path:
    """The graph itself, or a copy that holds its weights: PyTorch puts them beside it by default.

    Raises:
        Unclear: it is not an ONNX file, or its weights are not beside it.
    """
    if not graph.is_file():
        raise Unclear(f"there is no file {graph}")
    try:
        model = onnx.load(graph, load_external_data=False)
        if not any(uses_external_data(tensor) for tensor in model.graph.initializer):
            return graph
        whole = scratch / GRAPH
        onnx.save(onnx.load(graph), whole)
    except Exception as error:  # protobuf's and onnx's own, which share no base
        raise Unclear(f"{graph} is not a whole ONNX file: {error}") from error
    return whole


def _list_tensors(tensors: Mapping[str, TensorSpec]) -> str:
    return ", ".join(
        f"{name} {spec.dtype}[{', '.join('N' if s is None else str(s) for s in spec.shape)}]"
        for name, spec in tensors.items()
    )
