"""A stuck lane: a graph that does not come back."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from loadtests.faults.bench import Bench
from loadtests.faults.figures import Figure
from loadtests.faults.graphs import LEVEL, MARKER, picture, write_brittle, write_endless
from loadtests.faults.server import Server
from loadtests.wire import BrokenOff, Connections, post

PATH = "/v1/image/embed?model={}"
LANES = (1, 2)
NOTICED_SECONDS = 10.0
RESUMED_SECONDS = 30.0
PATIENCE_SECONDS = 60.0
ASK_SECONDS = 2.0
EVERY_SECONDS = 0.1
STEADY = 20  # right answers one after the other: with several workers, all are well


def stuck_lane(bench: Bench) -> Iterator[Figure]:
    """It is noticed, `/livez` tells, and the service goes on without a person."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        write_endless(models)
        write_brittle(models)
        for lanes in LANES:
            with bench.server(f"stuck-{lanes}", models, SENSORIUM_LANES=str(lanes)) as server:
                for figure in asyncio.run(_stick(server)):
                    yield Figure(
                        f"{lanes} lanes: {figure.what}", figure.value, figure.least, figure.most
                    )


async def _stick(server: Server) -> list[Figure]:
    workers = server.worker_ids()
    began = time.monotonic()
    stuck = asyncio.ensure_future(_is_right(server.port, "endless", MARKER, PATIENCE_SECONDS))
    await asyncio.sleep(EVERY_SECONDS)
    noticed, told, resumed, steady, others_hurt = PATIENCE_SECONDS, 0, PATIENCE_SECONDS, 0, 0
    while (age := time.monotonic() - began) < PATIENCE_SECONDS and steady < STEADY:
        status, _ = await asyncio.to_thread(server.get, "/livez")
        replaced = server.worker_ids() != workers
        if noticed == PATIENCE_SECONDS and (status != 200 or replaced):
            noticed = age
        told += status not in (0, 200)
        others_hurt += not await _is_right(server.port, "brittle", LEVEL, ASK_SECONDS)
        if noticed < PATIENCE_SECONDS and await _is_right(
            server.port, "endless", LEVEL, ASK_SECONDS
        ):
            steady += 1
            resumed = min(resumed, age)
        else:
            steady, resumed = 0, PATIENCE_SECONDS
        await asyncio.sleep(EVERY_SECONDS)
    stuck.cancel()
    return [
        Figure("noticed after, s", noticed, most=NOTICED_SECONDS),
        Figure("times that /livez said so", told, least=1),
        Figure("serves again after, s", resumed, most=RESUMED_SECONDS),
        Figure("requests to another model not answered right meanwhile", others_hurt),
    ]


async def _is_right(port: int, model: str, level: int, seconds: float) -> bool:
    request = post(PATH.format(model), "image/png", picture(level))
    try:
        async with asyncio.timeout(seconds), Connections(port) as connections:
            return (await connections.ask(request)).status == 200
    except (OSError, BrokenOff):
        return False
