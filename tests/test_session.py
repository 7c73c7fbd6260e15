"""onnxruntime behind one call, and where it runs."""

from pathlib import Path

import numpy as np
import pytest

from service.errors import BadModel, ProviderMissing
from service.session import Session, choose_provider
from service.settings import Provider
from tests.conftest import write_colours

CPU_ONLY = ["AzureExecutionProvider", "CPUExecutionProvider"]
WITH_CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_a_graph_runs_and_describes_itself(tmp_path: Path) -> None:
    session = Session(write_colours(tmp_path) / "model.onnx", Provider.CPU, threads=1)
    assert session.inputs["pixels"].dtype == "uint8"
    assert session.inputs["pixels"].shape == (None, 8, 8, 3)
    assert session.outputs["vector"].shape == (None, 3)
    [vector] = session.run({"pixels": np.full((2, 8, 8, 3), 7, np.uint8)}, ["vector"])
    assert vector.tolist() == [[7, 7, 7], [7, 7, 7]]


def test_a_file_that_is_no_graph_is_a_bad_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(BadModel, match="cannot load"):
        Session(path, Provider.CPU, threads=1)


def test_auto_takes_cuda_before_the_cpu() -> None:
    assert choose_provider(Provider.AUTO, CPU_ONLY) is Provider.CPU
    assert choose_provider(Provider.AUTO, WITH_CUDA) is Provider.CUDA
    assert choose_provider(Provider.CPU, WITH_CUDA) is Provider.CPU


def test_a_provider_that_was_asked_for_is_never_replaced() -> None:
    for wanted in (Provider.CUDA, Provider.TENSORRT):
        with pytest.raises(ProviderMissing, match=f"SENSORIUM_PROVIDER={wanted}.*which has Azure"):
            choose_provider(wanted, CPU_ONLY)


def test_a_provider_that_is_built_in_but_cannot_start_is_missing(tmp_path: Path) -> None:
    """onnxruntime itself falls back in silence; this machine's CPU build does so for CUDA."""
    graph = write_colours(tmp_path) / "model.onnx"
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(ProviderMissing):
        Session(graph, Provider.CUDA, threads=1)


def test_a_lone_run_gives_the_same_on_all_cores(tmp_path: Path) -> None:
    graph = write_colours(tmp_path) / "model.onnx"
    session = Session(graph, Provider.CPU, threads=1, lone_threads=2)
    feeds = {"pixels": np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)}
    [among_others] = session.run(feeds, ["vector"])
    [alone] = session.run(feeds, ["vector"], alone=True)
    assert session._wide is not session._session
    assert alone == pytest.approx(among_others)


def test_as_many_threads_alone_as_among_others_need_no_second_copy(tmp_path: Path) -> None:
    session = Session(write_colours(tmp_path) / "model.onnx", Provider.CPU, 2, lone_threads=2)
    assert session._wide is session._session
