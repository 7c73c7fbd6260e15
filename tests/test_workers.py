"""Workers that die are started again."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from tests.conftest import png
from tests.servers import PROJECT, plain_environment, served

RED = png((250, 10, 10))
PATIENCE_SECONDS = 60.0

# What `bentoml serve` does before it starts workers.
PREPARE = """
from bentoml._internal.utils import circus
from service.app import Sensorium
Sensorium.inner.supervise_workers()
print(circus.create_standalone_arbiter([]).check_delay)
"""

# What a worker does first.
START = """
import asyncio, gc
from service.app import Sensorium
before = len(gc.get_objects())
asyncio.run(Sensorium.inner().start())
print(gc.get_freeze_count() / before)
"""


def workers() -> list[psutil.Process]:
    """Those of the server that this test has started."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE
        and "_bentoml_impl.worker.service" in process.cmdline()
    ]


def test_the_only_worker_is_killed_and_another_one_answers(small_models: Path) -> None:
    with served(small_models) as url:
        [worker] = workers()
        worker.kill()
        until = time.monotonic() + PATIENCE_SECONDS
        while not [other for other in workers() if other.pid != worker.pid]:
            assert time.monotonic() < until
            time.sleep(0.05)
        with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS) as client:
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < until
                time.sleep(0.05)
            response = client.post("/v1/image/classify", content=RED)
        assert response.json()["results"][0]["labels"][0]["label"] == "red"


def printed(program: str, models: Path) -> float:
    """The number that a program prints last, with these models."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env={**plain_environment(), "SENSORIUM_MODELS": str(models)},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout.split()[-1])


def test_dead_workers_are_looked_for_every_second(small_models: Path) -> None:
    assert printed(PREPARE, small_models) == 1.0


def test_collections_of_garbage_pass_over_the_modules(small_models: Path) -> None:
    assert printed(START, small_models) > 0.9
