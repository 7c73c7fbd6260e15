"""onnxruntime behind one call, and where it runs."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest

from service.errors import BadModel, ProviderMissing
from service.limits import affinity
from service.runtime.session import Session, choose_provider, cuda_starts
from service.runtime.tensors import Array
from service.settings import Provider
from tests.conftest import write_colours
from tests.marks import has_two_cores, knows_threads
from tests.test_watch import STALLING

CPU_ONLY = ["AzureExecutionProvider", "CPUExecutionProvider"]
WITH_CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]


GATHER = """
<ir_version: 9, opset_import: ["" : 18]>
gather (int64[N] ids) => (float[N] found) <float[2] table = {1, 2}> {
    found = Gather(table, ids)
}
"""


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


def test_auto_takes_cuda_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtime.session.cuda_starts", lambda: True)
    assert choose_provider(Provider.AUTO, CPU_ONLY) is Provider.CPU
    assert choose_provider(Provider.AUTO, WITH_CUDA) is Provider.CUDA
    assert choose_provider(Provider.CPU, WITH_CUDA) is Provider.CPU


def test_auto_takes_the_cpu_and_says_so_if_cuda_cannot_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """This machine's CPU build cannot start CUDA either."""
    cuda_starts.cache_clear()
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        assert choose_provider(Provider.AUTO, WITH_CUDA) is Provider.CPU
    assert choose_provider(Provider.AUTO, WITH_CUDA) is Provider.CPU
    assert caplog.text.count("CUDA is installed but cannot start, so the CPU is used") == 1


def test_a_provider_that_was_asked_for_is_never_replaced() -> None:
    for wanted in (Provider.CUDA, Provider.TENSORRT):
        with pytest.raises(ProviderMissing, match=f"SENSORIUM_PROVIDER={wanted}.*which has Azure"):
            choose_provider(wanted, CPU_ONLY)


def test_a_provider_that_is_built_in_but_cannot_start_is_missing(tmp_path: Path) -> None:
    """onnxruntime itself falls back in silence; this machine's CPU build does so for CUDA."""
    graph = write_colours(tmp_path) / "model.onnx"
    refused = pytest.raises(ProviderMissing, match=f"{graph}: CUDA.* cannot start")
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), refused:
        Session(graph, Provider.CUDA, threads=1)


def test_a_session_stays_on_its_provider(tmp_path: Path) -> None:
    """By default onnxruntime moves it to the CPU when a run fails, while other threads use it."""
    session = Session(write_colours(tmp_path) / "model.onnx", Provider.CPU, threads=1)
    assert not session._session._enable_fallback


def test_errors_of_a_graph_are_raised_and_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(onnx.parser.parse_model(GATHER).SerializeToString())
    session = Session(graph, Provider.CPU, threads=1)
    with pytest.raises(Exception, match="idx=9"):
        session.run({"ids": np.array([9])}, ["found"])
    assert capfd.readouterr() == ("", "")


def test_a_lone_run_gives_the_same_on_all_cores(tmp_path: Path) -> None:
    graph = write_colours(tmp_path) / "model.onnx"
    session = Session(graph, Provider.CPU, threads=1, exclusive_threads=2)
    feeds = {"pixels": np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)}
    [among_others] = session.run(feeds, ["vector"])
    [exclusive] = session.run(feeds, ["vector"], exclusive=True)
    assert session._wide is not session._session
    assert exclusive == pytest.approx(among_others)


@has_two_cores
@knows_threads
def test_threads_of_a_lone_run_keep_to_their_cores_but_the_caller(tmp_path: Path) -> None:
    graph, before, ours = write_colours(tmp_path) / "model.onnx", _threads(), affinity()
    first, second, *_ = sorted(ours)
    session = Session(
        graph, Provider.CPU, threads=1, exclusive_threads=3, exclusive_cores=(first, second, second)
    )
    assert session._wide is not session._session
    until = time.monotonic() + 10
    while [*map(_cores_of, _threads() - before)].count({second}) < 2:  # when they have begun
        assert time.monotonic() < until
        time.sleep(0.001)
    assert affinity() == ours


def test_as_many_threads_alone_as_among_others_need_no_second_copy(tmp_path: Path) -> None:
    session = Session(write_colours(tmp_path) / "model.onnx", Provider.CPU, 2, exclusive_threads=2)
    assert session._wide is session._session


def _threads() -> set[int]:
    return set(map(int, os.listdir("/proc/self/task")))


def _cores_of(thread: int) -> set[int]:
    try:
        return os.sched_getaffinity(thread)
    except ProcessLookupError:  # it has ended
        return set()


def note_runs(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, int]]:
    """Grows by onnxruntime's session and the number of pictures of each run."""
    noted: list[tuple[object, int]] = []
    run = session._run

    def noting(*args: Any) -> list[Array]:
        noted.append((args[0], len(args[1]["pixels"])))
        return run(*args)

    monkeypatch.setattr(session, "_run", noting)
    return noted


def test_memory_is_given_back_by_sessions_that_were_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(write_colours(tmp_path) / "model.onnx", Provider.CPU, 1, exclusive_threads=2)
    feeds = {"pixels": np.zeros((2, 8, 8, 3), np.uint8)}
    runs = note_runs(session, monkeypatch)
    for exclusive, used in ((False, session._session), (True, session._wide)):
        session.run(feeds, ["vector"], exclusive=exclusive)
        runs.clear()
        session.release(feeds, ["vector"])
        session.release(feeds, ["vector"])
        assert runs == [(used, 2)], "once is enough"


def test_a_session_without_an_arena_has_no_memory_to_give_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(write_colours(tmp_path) / "model.onnx", Provider.CPU, 1, arena=False)
    feeds = {"pixels": np.zeros((2, 8, 8, 3), np.uint8)}
    session.run(feeds, ["vector"])
    runs = note_runs(session, monkeypatch)
    session.release(feeds, ["vector"])
    assert not runs


def test_a_batch_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(onnx.parser.parse_model(STALLING).SerializeToString())
    session = Session(graph, Provider.CPU, 1)
    pixels = np.full((1, 8, 8, 3), 255, np.uint8)  # more turns than anybody waits for
    with ThreadPoolExecutor() as pool:
        batch = pool.submit(session.run, {"pixels": pixels}, ["vector"])
        while not session._runs:
            time.sleep(0.001)
        [lane] = session._runs.values()
        session.interrupt([lane + 1])
        assert not batch.done(), "the runs of other threads go on"
        session.interrupt([lane])
        try:
            with pytest.raises(Exception, match="terminate"):
                batch.result(timeout=10)
        finally:
            session.interrupt([lane])
