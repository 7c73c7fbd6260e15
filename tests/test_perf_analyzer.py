"""NVIDIA's perf_analyzer, as its package has it, against a real server."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests import perf_analyzer
from loadtests.perf_analyzer import Missing, find, main, measure
from tests.conftest import png, write_colours
from tests.servers import PROJECT, free_port, served


@pytest.fixture(scope="module")
def command() -> list[str]:
    try:
        return find(PROJECT / ".cache/perf_analyzer")
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models: Path = tmp_path_factory.mktemp("models")
    write_colours(models)
    with served(models) as url:
        yield url.removeprefix("http://")


@pytest.mark.parametrize("model", ["colours", "colours:tensors"])
def test_it_prints_our_queue_and_compute(command: list[str], address: str, model: str) -> None:
    unsteady = 1000  # per cent: it is not tested how steady this machine is
    report = measure(command, address, model, png((250, 10, 10)), "1:3:2", unsteady)
    assert re.findall(r"^Request concurrency: (\d)", report, re.MULTILINE) == ["1", "3"]
    parts = "overhead .* queue .* compute input .* compute infer .* compute output"
    assert len(re.findall(parts, report)) == 2
    counted = re.findall(r"Successful request count: (\d+)", report)
    assert min(map(int, counted)) >= 50


def test_a_service_that_is_not_there_is_told_of_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perf_analyzer, "find", lambda: ["perf_analyzer"])
    (tmp_path / "red.png").write_bytes(png((250, 10, 10)))
    address = f"http://127.0.0.1:{free_port()}/"
    assert main(["colours", "--url", address, "--file", str(tmp_path / "red.png")]) == 1
    said = capsys.readouterr().err
    assert "Connection refused" in said
    assert said.count("\n") == 1
