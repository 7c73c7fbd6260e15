"""Metrics are right with several workers, and when one of them was killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from service.metrics import _remove_gauges_of_dead_workers
from tests.conftest import png
from tests.servers import PROJECT, served

WORK = """
import os
from service.metrics import ModelSeries, show_state
series = ModelSeries("colours", 1)
series.load(waiting=3, running=2)
show_state("colours", "1", ["ready"])
series.done("ok")
os._exit(0)                 # as abruptly as a kill
"""
READ = "from service.metrics import render; print(render().decode())"


def run(program: str, folder: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def value(text: str, series: str) -> float | None:
    for line in text.splitlines():
        if line.startswith(series + " "):
            return float(line.split()[-1])
    return None


def test_what_a_killed_worker_did_counts_what_it_held_does_not(tmp_path: Path) -> None:
    for _ in range(2):
        run(WORK, tmp_path)
    assert len(list(tmp_path.glob("gauge_livesum_*.db"))) == 2
    text = run(READ, tmp_path)
    done = 'sensorium_items_total{model="colours",outcome="ok",version="1"}'
    assert value(text, done) == 2
    assert value(text, 'sensorium_queue_items{model="colours",version="1"}') is None
    assert not list(tmp_path.glob("gauge_livesum_*.db"))


@pytest.mark.parametrize(
    "name",
    [
        "counter_5.db",  # empty, as while it is created
        "histogram_5.db",
        "gauge_livesum_5x.db",
        "gauge_livesum_.db",
        "gauge_livemax_99999999999999999999.db",
        "gauge_livemax_1.db",  # of a process of another user
    ],
)
def test_an_odd_file_does_not_stop_the_metrics(tmp_path: Path, name: str) -> None:
    run(WORK, tmp_path)
    (tmp_path / name).touch()
    done = 'sensorium_items_total{model="colours",outcome="ok",version="1"}'
    assert value(run(READ, tmp_path), done) == 1


def test_a_file_that_goes_while_it_is_read_does_not_stop_the_metrics(tmp_path: Path) -> None:
    run(WORK, tmp_path)
    (tmp_path / "gauge_livesum_7.db").symlink_to(tmp_path / "gone")  # listed, and not there
    done = 'sensorium_items_total{model="colours",outcome="ok",version="1"}'
    assert value(run(READ, tmp_path), done) == 1


def test_two_workers_may_forget_a_dead_one_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gauge_livesum_5.db"
    file.touch()

    def kill(*_: int) -> None:
        file.unlink()  # by the other worker, between our two looks
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", kill)
    _remove_gauges_of_dead_workers(tmp_path)
    assert not file.exists()


def test_a_worker_that_is_alone_keeps_its_series_itself(small_models: Path) -> None:
    picture = png((250, 10, 10))
    with served(small_models) as url, httpx.Client(base_url=url) as client:
        assert client.post("/v1/image/classify", content=picture).status_code == 200
        text = client.get("/metrics").text
    assert value(text, 'sensorium_items_total{model="colours",outcome="ok",version="1"}') == 1
    assert (value(text, "process_resident_memory_bytes") or 0) > 2**20
    requests = 'sensorium_requests_total{method="POST",route="/v1/image/classify",status="200"}'
    assert value(text, requests) == 1
    assert "bentoml_service_" not in text, "series without samples"


def test_two_workers_sum_right(small_models: Path) -> None:
    picture = png((250, 10, 10))
    items = 'sensorium_items_total{model="colours",outcome="ok",version="1"}'
    decoded = 'sensorium_stage_seconds_count{model="colours",stage="decode",version="1"}'
    loaded, models = 'sensorium_models{state="ready"}', 3
    unkept = httpx.Limits(max_keepalive_connections=0)
    with (
        served(small_models, workers=2) as url,
        httpx.Client(base_url=url, limits=unkept) as client,
    ):
        until = time.monotonic() + 60
        while value(client.get("/metrics").text, loaded) != 2 * models:
            assert time.monotonic() < until, "only one worker has written"
            time.sleep(0.05)
        for _ in range(200):  # each on a connection of its own
            client.post("/v1/image/classify", content=picture).raise_for_status()
        text = client.get("/metrics").text
    assert value(text, items) == value(text, decoded) == 200
    requests = 'sensorium_requests_total{method="POST",route="/v1/image/classify",status="200"}'
    assert value(text, requests) == 200
    seconds = 'sensorium_request_seconds_count{route="/v1/image/classify"}'
    assert value(text, seconds) == 200
