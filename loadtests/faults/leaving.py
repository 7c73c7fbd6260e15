"""Clients who hang up while their request waits: nobody works for them."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from loadtests.faults.bench import Bench
from loadtests.faults.examples import Example, read_examples
from loadtests.faults.figures import Figure
from loadtests.faults.load import Asked, Log, ask_until
from loadtests.faults.server import Server
from loadtests.wire import connect

WARM_SECONDS = 2.0
PATIENT = 8  # callers who wait
BURST = 100  # callers who do not
BURST_EVERY_SECONDS = 0.5
PATIENCE_SECONDS = 0.02
MIN_THROUGHPUT = 0.8  # of what it is when nobody leaves; the bytes of the others are read
MAX_RUN = 0.1  # of the work of those who left: some had their turn before they did


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of those who stay, without and beside those who leave."""

    log: Log
    began: float  # monotonic seconds, when they were warm
    parted: float  # from when on others came and left
    left: int
    run: float  # items, since then
    dropped: float

    def without(self) -> list[Asked]:
        return [one for one in self.log.right() if self.began <= one.began < self.parted]

    def beside(self) -> list[Asked]:
        return [one for one in self.log.right() if one.began >= self.parted]


def leave(bench: Bench) -> Iterator[Figure]:
    """Bursts of callers who leave at once, beside a few who stay."""
    seconds = bench.scaled(20, 5)
    example = next(e for e in read_examples(bench.models) if "/image/classify" in e.path)
    with bench.server("leaving") as server:
        seen = asyncio.run(_measure(server, example, seconds))
    refused = seen.log.statuses()[503]
    yield Figure("callers who left", seen.left)
    yield Figure("items dropped because their caller had left", seen.dropped, least=1)
    share = (seen.run - len(seen.beside())) / seen.left
    yield Figure("share of their work that was run", share, most=MAX_RUN)
    throughput = len(seen.beside()) / len(seen.without())
    yield Figure("answers to those who stay, of those without", throughput, least=MIN_THROUGHPUT)
    yield Figure("those who stay, 503 while a burst was there", refused)
    wrong = len(seen.log.wrong()) - refused
    yield Figure("those who stay, otherwise not answered right", wrong, most=0)


async def _measure(server: Server, example: Example, seconds: float) -> Seen:
    """Those who stay keep their connections: which worker has them, is the same in both parts."""
    stop, log, left = asyncio.Event(), Log(), 0
    staying = asyncio.ensure_future(ask_until(stop, server.port, [example], PATIENT, log))
    await asyncio.sleep(WARM_SECONDS)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    run, dropped = await asyncio.to_thread(_items, server)
    parted = time.monotonic()
    while time.monotonic() < parted + seconds:
        next_burst = asyncio.sleep(BURST_EVERY_SECONDS)
        await asyncio.gather(
            next_burst, *(_leave(server.port, example.message()) for _ in range(BURST))
        )
        left += BURST
    stop.set()
    await staying
    server.tree.settle()
    run_then, dropped_then = await asyncio.to_thread(_items, server)
    return Seen(log, began, parted, left, run_then - run, dropped_then - dropped)


async def _leave(port: int, message: bytes) -> None:
    _, writer = await connect(port)
    writer.write(message)
    await writer.drain()
    await asyncio.sleep(PATIENCE_SECONDS)
    writer.close()


def _items(server: Server) -> tuple[float, float]:
    """Those that were run, and those that were dropped because nobody waited for them."""
    run = server.metric("sensorium_batch_items_sum")
    return run, server.metric("sensorium_dropped_items_total", reason="cancelled")
