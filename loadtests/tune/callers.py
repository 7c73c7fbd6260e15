"""Closed loop: callers, each of whom asks again as soon as the answer is there."""

import asyncio
import itertools
import time
from collections.abc import Sequence

from loadtests.compare.arrivals import Visit
from loadtests.compare.dialects import Body
from loadtests.compare.outcome import Outcome, percentiles
from loadtests.wire import BrokenOff, Connections, post

PATIENCE_SECONDS = 60.0


def keep_asking(
    port: int, path: str, bodies: Sequence[Body], callers: int, seconds: float
) -> Outcome:
    """So many callers at once for so long, over kept connections; the bodies in turn."""
    spent = time.process_time()
    requests = [post(path, body.content_type, body.content) for body in bodies]
    visits = asyncio.run(_visits(port, requests, callers, seconds))
    return summarise(visits, seconds, time.process_time() - spent)


def summarise(visits: Sequence[Visit], seconds: float, client_cpu_seconds: float) -> Outcome:
    """Answers after the end make no throughput, but their callers have waited."""
    answered = [visit for visit in visits if visit.status == 200]
    times = [visit.seconds for visit in answered]
    return Outcome(
        answers=sum(visit.came + visit.seconds <= seconds for visit in answered),
        errors=len(visits) - len(answered),
        seconds=seconds,
        **percentiles(times),
        client_cpu_seconds=client_cpu_seconds,
    )


async def _visits(
    port: int, requests: Sequence[bytes], callers: int, seconds: float
) -> list[Visit]:
    loop = asyncio.get_running_loop()
    visits: list[Visit] = []
    turn = itertools.cycle(requests)
    start = loop.time()

    async def call(connections: Connections) -> None:
        while (came := loop.time() - start) < seconds:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    status = (await connections.ask(next(turn))).status
            except (OSError, BrokenOff):  # a TimeoutError is an OSError
                status = 0
            visits.append(Visit(came, loop.time() - start - came, status))
            if status != 200:
                return  # asking again at once would only measure refusals

    async with Connections(port) as connections, asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(call(connections))
    return visits
