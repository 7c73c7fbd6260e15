"""Endings: SIGTERM at full load, and SIGKILL of a worker."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence

from loadtests.faults.bench import Bench
from loadtests.faults.examples import Example, read_examples
from loadtests.faults.figures import Figure
from loadtests.faults.load import Log, ask_until
from loadtests.faults.server import Server

AT_ONCE = 32  # more than two cores answer without refusing any when half of them is gone
FEW = 8  # who need no more than what is left
LOAD_SECONDS = 3.0
END_SECONDS = 20.0
BACK_SECONDS = 5.0
WATCHED_SECONDS = 15.0


def terminate(bench: Bench) -> Iterator[Figure]:
    """SIGTERM: nothing that was accepted before it is lost, and the status is 0."""
    examples = read_examples(bench.models)
    with bench.server("terminate") as server:
        told, log, status, ended = asyncio.run(_terminate(server, examples))
    before = [one for one in log.asked if one.began < told]
    after = [one for one in log.asked if told <= one.began < ended]
    yield Figure("answered right before it", sum(one.is_right for one in before))
    refused = [o for o in before if o.status == 503 and o.began + o.seconds < told]
    lost = sum(not one.is_right for one in before) - len(refused)
    yield Figure("refused before it, as connections are spread unevenly", len(refused))
    yield Figure("begun before it and not answered right", lost, most=0)
    yield Figure(
        "begun after it and answered 200 or 503", sum(o.status in (200, 503) for o in after)
    )
    yield Figure("begun after it and not answered", sum(o.status == 0 for o in after))
    yield Figure("ended after, s", ended - told, most=END_SECONDS)
    yield Figure("exit status", status, least=0, most=0)


async def _terminate(server: Server, examples: Sequence[Example]) -> tuple[float, Log, int, float]:
    stop, log = asyncio.Event(), Log()
    load = asyncio.ensure_future(ask_until(stop, server.port, examples, AT_ONCE, log))
    await asyncio.sleep(LOAD_SECONDS)
    told = time.monotonic()
    server.tree.root.terminate()
    try:
        status = await asyncio.to_thread(server.tree.root.wait, END_SECONDS * 2)
    except subprocess.TimeoutExpired:
        status = -1
    ended = time.monotonic()
    stop.set()
    await load
    return told, log, status, ended


def kill_worker(bench: Bench) -> Iterator[Figure]:
    """SIGKILL of one worker: its own requests are lost, and it is back in seconds."""
    examples = read_examples(bench.models)
    for callers in (FEW, AT_ONCE):
        with bench.server(f"kill-{callers}") as server:
            killed, log = asyncio.run(_kill(server, examples, callers))
        broken = [one for one in log.wrong() if one.status == 0]
        others = [one for one in log.wrong() if one.status != 0]
        last = max((one.began + one.seconds for one in log.wrong()), default=killed)
        # Who is alone has nobody to answer for him meanwhile.
        most = 0 if bench.workers > 1 and callers == FEW else None
        name = f"{callers} callers: "
        yield Figure(name + "answered right", len(log.right()))
        yield Figure(name + "broken off, of those in flight", len(broken), most=callers)
        yield Figure(name + "refused or answered wrongly", len(others), most=most)
        yield Figure(name + "last of all these, s after", last - killed, most=BACK_SECONDS)


async def _kill(server: Server, examples: Sequence[Example], callers: int) -> tuple[float, Log]:
    stop, log = asyncio.Event(), Log()
    load = asyncio.ensure_future(ask_until(stop, server.port, examples, callers, log))
    await asyncio.sleep(LOAD_SECONDS)
    os.kill(min(server.worker_ids()), signal.SIGKILL)
    killed = time.monotonic()
    await asyncio.sleep(WATCHED_SECONDS)
    stop.set()
    await load
    return killed, log
