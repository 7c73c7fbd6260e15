"""Export: the graph computes what the network does at every size it promises, or is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from training.errors import ExportFailed, ParityFailed
from training.export import check_parity, export


class Sums(nn.Module):
    """float32[N, L] -> total float32[N], scaled float32[N, L]."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        return wave.sum(dim=1), wave * self.scale


class Double(nn.Module):
    def forward(self, wave: Tensor) -> Tensor:
        return (wave.double() * 1.5).float()


class Stubborn(nn.Module):
    """Works for two items only, whatever is said of the batch."""

    def forward(self, wave: Tensor) -> Tensor:
        return wave + torch.ones(2, 1)


DYNAMIC = {"wave": {0: "batch", 1: "length"}}
BATCHES = [{"wave": np.random.default_rng(n).random((n, 9 + n), np.float32)} for n in (1, 2, 3, 8)]


def export_sums(path: Path, scale: float = 2.0) -> Path:
    export(Sums(scale), {"wave": torch.ones(2, 5)}, ["total", "scaled"], DYNAMIC, path)
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_sums(tmp_path_factory.mktemp("export") / "sums.onnx")


def test_inputs_and_outputs_have_the_names_that_were_asked_for(graph: Path) -> None:
    content = onnx.load(graph).graph
    assert [value.name for value in content.input] == ["wave"]
    assert [value.name for value in content.output] == ["total", "scaled"]


def test_a_graph_says_nothing_of_the_machine_that_made_it(graph: Path) -> None:
    assert str(Path(__file__).parent).encode() not in graph.read_bytes()
    assert not any(node.metadata_props or node.doc_string for node in onnx.load(graph).graph.node)


def test_a_graph_that_computes_the_same_passes_at_every_size(graph: Path) -> None:
    assert 0 <= check_parity(Sums(), graph, BATCHES, limit=1e-4) < 1e-5


def test_the_greatest_difference_of_all_outputs_is_reported(graph: Path) -> None:
    ones = {"wave": np.ones((2, 3), np.float32)}
    assert check_parity(Sums(2.25), graph, [ones], limit=1) == pytest.approx(0.25)


def test_a_graph_that_computes_something_else_is_refused(graph: Path) -> None:
    with pytest.raises(ParityFailed, match="scaled differs from PyTorch"):
        check_parity(Sums(2.01), graph, BATCHES, limit=1e-4)


def test_a_number_that_is_none_is_a_difference(graph: Path) -> None:
    with pytest.raises(ParityFailed, match="differs from PyTorch by nan"):
        check_parity(Sums(float("nan")), graph, BATCHES, limit=1e-4)


def test_a_batch_that_the_graph_cannot_take_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sums.onnx"
    export(Sums(), {"wave": torch.ones(2, 5)}, ["total", "scaled"], {"wave": {1: "length"}}, path)
    with pytest.raises(ParityFailed, match=r"cannot run on wave \[1, 10\]"):
        check_parity(Sums(), path, BATCHES, limit=1e-4)


def test_a_network_of_fixed_batch_cannot_be_passed_off_as_dynamic(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed):
        export(Stubborn(), {"wave": torch.ones(2, 5)}, ["out"], DYNAMIC, tmp_path / "graph.onnx")


def test_float64_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="float64"):
        export(Double(), {"wave": torch.ones(2, 5)}, ["out"], DYNAMIC, tmp_path / "graph.onnx")
