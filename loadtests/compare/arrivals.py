"""Open loop: callers who come at a steady rate, whether or not those before them were answered."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools
import uvloop

from loadtests.compare.dialects import Body
from loadtests.compare.outcome import Outcome, percentiles
from loadtests.wire import post

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
    visits = uvloop.run(arrive(port, requests, rate, LEAD_IN_SECONDS + seconds))
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
    crowd = _Crowd(port, time.monotonic(), int(rate * seconds))
    async with asyncio.TaskGroup() as group:
        for number in range(crowd.expected):
            came = number / rate
            await asyncio.sleep(max(0.0, crowd.start + came - time.monotonic()))
            crowd.let_in(came, requests[number % len(requests)], group)
    return await crowd.all_gone()


@dataclass(slots=True)
class _Crowd:
    """Callers, each of whom leaves the connection to those who come later.

    No task, and no streams, for each: a caller's own work is taken from the server's cores.
    """

    port: int
    start: float  # by the monotonic clock
    expected: int
    idle: list["_Connection"] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def let_in(self, came: float, request: bytes, group: asyncio.TaskGroup) -> None:
        if self.idle:
            self.idle.pop().ask(came, request)
        else:
            group.create_task(self._connect(came, request))

    def patience(self, came: float) -> float:
        """The seconds that are left until this caller leaves."""
        return self.start + came + PATIENCE_SECONDS - time.monotonic()

    async def _connect(self, came: float, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.patience(came)):
                opening = loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
                _, connection = await opening
        except OSError:  # a TimeoutError is one
            self.leave(came, 0, "")
        else:
            connection.ask(came, request)

    def leave(self, came: float, status: int, retry_after: str) -> None:
        taken = time.monotonic() - self.start - came
        self.visits.append(Visit(came, taken, status, retry_after))
        if len(self.visits) == self.expected:
            self.gone.set()

    async def all_gone(self) -> list[Visit]:
        """What became of them, once the last has left."""
        if self.expected:
            await self.gone.wait()
        for connection in [*self.idle]:
            connection.transport.abort()
        return self.visits


class _Connection(asyncio.Protocol):
    """One caller after the other: each asks, and leaves when answered or out of patience."""

    transport: asyncio.Transport

    def __init__(self, crowd: _Crowd) -> None:
        self._crowd = crowd
        self._came: float | None = None  # of the caller who waits for an answer

    def ask(self, came: float, request: bytes) -> None:
        self._came, self._retry_after = came, ""
        self._parser = httptools.HttpResponseParser(self)
        loop, patience = asyncio.get_running_loop(), self._crowd.patience(came)
        self._timer = loop.call_later(patience, self.transport.abort)
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one only by its methods

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def on_message_complete(self) -> None:
        self._leave(self._parser.get_status_code())
        if self._parser.should_keep_alive():
            self._crowd.idle.append(self)
        else:
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        if self in self._crowd.idle:
            self._crowd.idle.remove(self)
        self._leave(0)

    def _leave(self, status: int) -> None:
        if self._came is not None:
            self._timer.cancel()
            self._crowd.leave(self._came, status, self._retry_after)
            self._came = None
