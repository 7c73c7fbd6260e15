"""Slow and idle clients: hundreds of connections that hold on, and do nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

from loadtests.faults.bench import Bench
from loadtests.faults.examples import read_examples
from loadtests.faults.figures import Figure
from loadtests.faults.load import Log, ask_for
from loadtests.wire import connect

SLOW_CLIENTS = 500
IDLE_CONNECTIONS = 1_000
AT_ONCE = 4
MAX_TIMES_SLOWER = 2.0
ALL_THERE_SECONDS = 2.0
BODY = b"POST /v1/text/embed HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
HEAD = b"POST /v1/text/embed HTTP/1.1\r\nhost: x\r\nx: "
WHOLE = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"

Client = Callable[[int], Awaitable[None]]


def slow_clients(bench: Bench) -> Iterator[Figure]:
    """A byte a second, of the body and of the head."""
    seconds = bench.scaled(30, 6)
    for part, start in {"body": BODY, "head": HEAD}.items():

        async def trickle(port: int, start: bytes = start) -> None:
            await _trickle(port, start)

        for figure in _beside(bench, SLOW_CLIENTS, trickle, seconds):
            yield Figure(f"slow {part}: {figure.what}", figure.value, figure.least, figure.most)


def idle_connections(bench: Bench) -> Iterator[Figure]:
    """Opened, used once or never, and left."""
    yield from _beside(bench, IDLE_CONNECTIONS, _hold, bench.scaled(30, 6))


def _beside(bench: Bench, clients: int, client: Client, seconds: float) -> Iterator[Figure]:
    """Normal requests without those clients, and with them."""
    with bench.server("slow") as server:
        without, beside, left = asyncio.run(_measure(bench, server.port, clients, client, seconds))
        times = beside.percentile(99) / without.percentile(99)
    yield Figure("p99 without them, ms", without.percentile(99) * 1000)
    yield Figure("p99 with them, times that", times, most=MAX_TIMES_SLOWER)
    yield Figure("answers a second, of those without", len(beside.right()) / len(without.right()))
    yield Figure("normal requests not answered right", len(beside.wrong()), most=0)
    yield Figure("of these clients, still connected at the end", left)


async def _measure(
    bench: Bench, port: int, clients: int, client: Client, seconds: float
) -> tuple[Log, Log, int]:
    examples = read_examples(bench.models)
    await ask_for(2.0, port, examples, AT_ONCE)
    without = await ask_for(seconds, port, examples, AT_ONCE)
    tasks = [asyncio.ensure_future(client(port)) for _ in range(clients)]
    await asyncio.sleep(ALL_THERE_SECONDS)
    beside = await ask_for(seconds, port, examples, AT_ONCE)
    left = sum(not task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return without, beside, left


async def _trickle(port: int, start: bytes) -> None:
    """A byte a second, until the server has had enough of it."""
    reader, writer = await connect(port)
    try:
        writer.write(start)
        while not (reader.at_eof() or writer.is_closing()):
            writer.write(b"a")
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await reader.read(1024)
    finally:
        writer.close()


async def _hold(port: int) -> None:
    """Until the server closes it."""
    reader, writer = await connect(port)
    try:
        if id(writer) % 2:
            writer.write(WHOLE)
        while await reader.read(1024):
            pass
    finally:
        writer.close()
