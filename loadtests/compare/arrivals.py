"""Open loop: callers who come at a steady rate, whether or not those before them were answered."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadtests.compare.dialects import Body
from loadtests.compare.outcome import Outcome, percentiles
from loadtests.wire import BrokenOff, Connections, post

IN_TIME_SECONDS = 1.0
PATIENCE_SECONDS = 2.0  # then the caller leaves
LEAD_IN_SECONDS = 2.0  # callers who come before the queue is what it will be are not counted


@dataclass(frozen=True, slots=True)
class Visit:
    """One caller's fate; a status of 0 stands for no answer."""

    came: float  # seconds after the first
    seconds: float  # from when they should have come to their answer's last byte
    status: int
    retry_after: str = ""  # what a refusal said of when to come back


def come_and_go(
    port: int,
    path: str,
    bodies: Sequence[Body],
    headers: Mapping[str, str],
    rate: float,
    seconds: float,
) -> Outcome:
    """Callers at `rate` a second for so long, after the lead-in, over kept connections."""
    spent = time.process_time()
    requests = [post(path, body.content_type, body.content, headers) for body in bodies]
    visits = asyncio.run(arrive(port, requests, rate, LEAD_IN_SECONDS + seconds))
    return summarise(visits, seconds, (time.process_time() - spent) * counted_share(seconds))


def counted_share(seconds: float) -> float:
    """How much of the whole time was measured, and so of the CPU seconds."""
    return seconds / (LEAD_IN_SECONDS + seconds)


def summarise(visits: Sequence[Visit], seconds: float, client_cpu_seconds: float) -> Outcome:
    counted = [visit for visit in visits if visit.came >= LEAD_IN_SECONDS]
    times = [visit.seconds for visit in counted if visit.status == 200]
    return Outcome(
        answers=len(times),
        errors=len(counted) - len(times),
        seconds=seconds,
        **percentiles(times),
        client_cpu_seconds=client_cpu_seconds,
        in_time=sum(time <= IN_TIME_SECONDS for time in times),
    )


async def arrive(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> list[Visit]:
    """Callers at `rate` a second for so long, each with the next of the requests, in turn."""
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def visit(connections: Connections, number: int) -> Visit:
        came = number / rate
        status, retry_after = 0, ""
        try:
            async with asyncio.timeout_at(start + came + PATIENCE_SECONDS):
                answer = await connections.ask(requests[number % len(requests)])
                status, retry_after = answer.status, answer.headers.get("retry-after", "")
        except (OSError, BrokenOff):  # a TimeoutError is an OSError
            pass
        return Visit(came, loop.time() - start - came, status, retry_after)

    async with Connections(port) as connections, asyncio.TaskGroup() as group:
        tasks = []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - loop.time()))
            tasks.append(group.create_task(visit(connections, number)))
    return [task.result() for task in tasks]
