"""What somebody's ONNX file takes and gives, as onnxruntime sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner
from onnx.external_data_helper import set_external_data

from service.model.manifest import Graph, SideFile
from service.regular import sha256
from service.runtime.graphs import read_graph
from service.runtime.session import Session
from service.runtime.tables import find_side_files
from service.runtime.tensors import TensorSpec
from service.settings import Provider
from training.errors import TrainingError

GRAPH = "model.onnx"
SIDE_FILE = "model.onnx.data"
WHOLE_BYTES = 2**31 - 2**27  # protobuf holds 2 GiB; the rest is for what is no weight
SIDE_BYTES = 1024  # a smaller tensor stays in the graph


class Unclear(TrainingError):
    """The graph and the flags do not say enough, or contradict each other."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A graph that can be served, and the files of weights beside it."""

    path: Path
    declared: Graph


@dataclass(frozen=True, slots=True)
class Found:
    """What a graph says of itself: names, types and shapes (None: any size)."""

    session: Session
    nodes: Mapping[str, onnx.NodeProto]  # tensor -> the node that makes it

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self.session.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        return self.session.outputs

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


def inspect(graph: Whole) -> Found:
    """What the graph takes and gives.

    Raises:
        BadModel: onnxruntime cannot read it.
    """
    session = Session(
        read_graph(graph.path, graph.declared.sha256, graph.declared.side_hashes),
        Provider.CPU,
        threads=1,
    )
    model = onnx.load(graph.path, load_external_data=False)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return Found(session, {out: node for node in model.graph.node for out in node.output})


def make_whole(graph: Path, scratch: Path, most_bytes: int = WHOLE_BYTES) -> Whole:
    """The graph itself, or a copy that holds its weights: PyTorch puts them beside it by default.

    Args:
        most_bytes: of weights in the graph; more are written beside it, and declared.

    Raises:
        Unclear: it is not an ONNX file, or its weights are not beside it.
    """
    if not graph.is_file():
        raise Unclear(f"there is no file {graph}")
    if _reads_files(graph):
        copy = scratch / GRAPH
        try:
            model = onnx.load(graph)
            if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > most_bytes:
                for tensor in model.graph.initializer:
                    if len(tensor.raw_data) >= SIDE_BYTES:
                        set_external_data(tensor, SIDE_FILE)
            onnx.save(model, copy)
            find_side_files(copy.read_bytes())
        except Exception as error:  # protobuf's and onnx's own, which share no base
            raise Unclear(f"{graph} is not a whole ONNX file: {error}") from error
        graph = copy
    side = graph.parent / SIDE_FILE
    beside = graph.parent == scratch and side.is_file()
    sides = (SideFile(file=SIDE_FILE, sha256=sha256(side)),) if beside else None
    return Whole(graph, Graph(file=GRAPH, sha256=sha256(graph), side_files=sides))


def _reads_files(graph: Path) -> bool:
    """Whether it reads other files; or is not understood, as onnx will say."""
    try:
        return bool(find_side_files(graph.read_bytes()))
    except ValueError:
        return True


def _list_tensors(tensors: Mapping[str, TensorSpec]) -> str:
    return ", ".join(
        f"{name} {spec.dtype}[{', '.join('N' if s is None else str(s) for s in spec.shape)}]"
        for name, spec in tensors.items()
    )
