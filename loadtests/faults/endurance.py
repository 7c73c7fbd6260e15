"""Endurance: mixed load for an hour, good and hostile, and what grows meanwhile."""

import asyncio
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from matplotlib.figure import Figure as Picture

from loadtests.faults.bench import Bench
from loadtests.faults.examples import Example, read_examples
from loadtests.faults.figures import Figure
from loadtests.faults.load import Log, ask_for
from loadtests.faults.server import Server
from loadtests.wire import BrokenOff, Connections
from tests.hostile import corpus

AT_ONCE = 4  # callers with good requests, beside one with hostile ones
LAP_SECONDS = 10.0  # then they connect anew: each worker is to meet all that there is
SAMPLES = 360  # over the whole run
SETTLING = 1 / 12  # of the run: five minutes of an hour
HOSTILE_PAUSE_SECONDS = 0.02
MAX_GROWTH = 1.05  # memory, beyond what is there after the settling
SPARE_FILES = 8  # connections come and go


@dataclass(frozen=True, slots=True)
class Sample:
    """What the workers held at one moment."""

    minutes: float
    memory_mib: float  # allocated: without mapped files, which cannot leak
    open_files: int
    threads: int


def endure(bench: Bench) -> Iterator[Figure]:
    """Nothing grows after the first minutes."""
    with bench.server("endurance") as server:
        workers = server.worker_ids()
        examples = read_examples(bench.models)
        samples, log = asyncio.run(_measure(server, examples, bench.minutes * 60))
        restarts = len(server.worker_ids() - workers)
    (bench.into / f"endurance-{bench.workers}.json").write_text(
        json.dumps([asdict(sample) for sample in samples])
    )
    draw(samples, bench.into / f"endurance-{bench.workers}.png")
    window = bench.minutes * SETTLING
    settled = [sample for sample in samples if window <= sample.minutes < 2 * window]
    late = [sample for sample in samples if sample.minutes >= bench.minutes - window]
    first, memory = (statistics.median(s.memory_mib for s in part) for part in (settled, late))
    files = statistics.median(s.open_files for s in late) - max(s.open_files for s in settled)
    threads = max(s.threads for s in late) - max(s.threads for s in settled)
    yield Figure("minutes", bench.minutes)
    yield Figure("answered right", len(log.right()))
    yield Figure("good ones not answered right", len(log.wrong()), most=0)
    yield Figure("MiB when settled", first)
    yield Figure("MiB at the end, times that", memory / first, most=MAX_GROWTH)
    yield Figure("open files more than then", files, most=SPARE_FILES)
    yield Figure("threads more than then", threads, most=0)
    yield Figure("restarts", restarts, most=0)


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Memory, files and threads over the minutes, one below the other."""
    picture = Picture((7, 6), dpi=110, layout="constrained")
    panels = picture.subplots(3, sharex=True)
    minutes = [sample.minutes for sample in samples]
    for axes, name in zip(panels, ("memory_mib", "open_files", "threads"), strict=True):
        axes.plot(minutes, [getattr(sample, name) for sample in samples])
        axes.set_ylabel(name.replace("_mib", ", MiB").replace("_", " "))
        axes.set_ylim(bottom=0)
    panels[-1].set_xlabel("minutes")
    picture.savefig(path)


async def _measure(
    server: Server, examples: Sequence[Example], seconds: float
) -> tuple[list[Sample], Log]:
    stop, log, samples = asyncio.Event(), Log(), []
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(_ask(stop, server.port, examples, log))
        group.create_task(_be_hostile(stop, server.port))
        while (age := time.monotonic() - began) < seconds:
            await asyncio.sleep(seconds / SAMPLES)
            samples.append(await asyncio.to_thread(_sample, server, age / 60))
        stop.set()
    return samples, log


async def _ask(stop: asyncio.Event, port: int, examples: Sequence[Example], log: Log) -> None:
    while not stop.is_set():
        lap = await ask_for(LAP_SECONDS, port, examples, AT_ONCE)
        log.asked += lap.asked


async def _be_hostile(stop: asyncio.Event, port: int) -> None:
    async with Connections(port) as connections:
        for seed in count():
            for case in corpus(seed):
                if stop.is_set():
                    return
                with suppress(BrokenOff):  # the answers are judged elsewhere
                    await connections.ask(case.message)
                await asyncio.sleep(HOSTILE_PAUSE_SECONDS)


def _sample(server: Server, minutes: float) -> Sample:
    memory = server.tree.allocated_bytes() / 2**20
    return Sample(minutes, memory, server.open_files(), server.threads())
