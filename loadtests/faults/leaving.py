"""Clients who hang up while their request waits: nobody works for them."""

import asyncio
from collections.abc import Iterator

from loadtests.faults.bench import Bench
from loadtests.faults.examples import Example, read_examples
from loadtests.faults.figures import Figure
from loadtests.faults.load import Log, ask_for
from loadtests.faults.server import Server
from loadtests.wire import connect

PATIENT = 8  # callers who wait
BURST = 100  # callers who do not
BURST_EVERY_SECONDS = 0.5
PATIENCE_SECONDS = 0.02
LEAST_THROUGHPUT = 0.8  # of what it is when nobody leaves; the bytes of the others are read
MOST_RUN = 0.1  # of the work of those who left: some had their turn before they did


def leave(bench: Bench) -> Iterator[Figure]:
    """Bursts of callers who leave at once, beside a few who stay."""
    seconds = bench.scaled(20, 5)
    example = next(e for e in read_examples(bench.models) if "/image/classify" in e.path)
    with bench.server("leaving") as server:
        asyncio.run(ask_for(2.0, server.port, [example], PATIENT))
        without = asyncio.run(ask_for(seconds, server.port, [example], PATIENT))
        run, dropped = _items_run(server), _items_dropped(server)
        beside, left = asyncio.run(_measure(server.port, example, seconds))
        server.tree.settle()
        run, dropped = _items_run(server) - run, _items_dropped(server) - dropped
    throughput = len(beside.right()) / len(without.right())
    yield Figure("callers who left", left)
    yield Figure("items dropped because their caller had left", dropped, least=1)
    yield Figure(
        "share of their work that was run", (run - len(beside.right())) / left, most=MOST_RUN
    )
    yield Figure("answers to those who stay, of those without", throughput, least=LEAST_THROUGHPUT)
    yield Figure("those who stay, not answered right", len(beside.wrong()), most=0)


async def _measure(port: int, example: Example, seconds: float) -> tuple[Log, int]:
    staying = asyncio.ensure_future(ask_for(seconds, port, [example], PATIENT))
    left = 0
    while not staying.done():
        await asyncio.gather(*(_leave(port, example.message()) for _ in range(BURST)))
        left += BURST
        await asyncio.wait([staying], timeout=BURST_EVERY_SECONDS)
    return staying.result(), left


async def _leave(port: int, message: bytes) -> None:
    _, writer = await connect(port)
    writer.write(message)
    await writer.drain()
    await asyncio.sleep(PATIENCE_SECONDS)
    writer.close()


def _items_run(server: Server) -> float:
    return server.metric("sensorium_batch_items_sum")


def _items_dropped(server: Server) -> float:
    return server.metric("sensorium_dropped_items_total", reason="cancelled")
