"""The corpus of hostile input, mixed one to one with good requests."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle, islice

from loadtests.faults.bench import Bench
from loadtests.faults.examples import Example, read_examples
from loadtests.faults.figures import Figure
from loadtests.faults.load import Log, ask_for
from loadtests.faults.server import Server
from loadtests.wire import BrokenOff, Connections, post
from tests.hostile import corpus
from tests.hostile.case import Case

AT_ONCE = 16
REQUESTS = 20_000
QUICK_REQUESTS = 3_000
WARM_SECONDS = 10
TIDY_SECONDS = 65  # a worker gives memory back every quarter of a minute
ANSWER_SECONDS = 60.0


@dataclass(slots=True)
class Tally:
    """How many requests there were, and what is wrong with the answers to each kind."""

    hostile: int = 0
    good: int = 0
    faults: int = 0  # of status 5xx
    complaints: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def send_corpus(bench: Bench) -> Iterator[Figure]:
    """Every good one right, every bad one refused as it should be, and nothing left behind."""
    examples = read_examples(bench.models)
    requests = bench.scaled(REQUESTS, QUICK_REQUESTS)
    # Who would have to wait is not refused here: that is another fault's matter.
    with bench.server("corpus", SENSORIUM_MAX_WAIT_MS="60000") as server:
        asyncio.run(_warm(server, examples, bench.scaled(WARM_SECONDS, 3)))
        memory, workers = _settled_bytes(server, bench), server.worker_ids()
        cases = islice((case for seed in count() for case in corpus(seed)), requests // 2)
        tally = asyncio.run(send(server.port, cases, examples))
        growth = _settled_bytes(server, bench) / memory
        restarts = len(server.worker_ids() - workers)
    complaints = bench.into / f"corpus-{bench.workers}.txt"
    complaints.write_text("\n".join([*tally.complaints, *tally.wrong]))
    yield Figure("requests", tally.hostile + tally.good)
    yield Figure("good ones that were not answered right", len(tally.wrong), most=0)
    yield Figure(
        f"hostile ones answered wrongly (see {complaints.name})", len(tally.complaints), most=0
    )
    yield Figure("answers 5xx", tally.faults, most=0)
    yield Figure("restarts", restarts, most=0)
    yield Figure("MiB when warmed", memory / 2**20)
    yield Figure("memory afterwards, times that", growth, most=1.1)


def _settled_bytes(server: Server, bench: Bench) -> int:
    """The memory of the workers, when they have given back what was freed."""
    time.sleep(bench.scaled(TIDY_SECONDS, 0))
    return server.memory_bytes()


async def _warm(server: Server, examples: Sequence[Example], seconds: float) -> Log:
    """Every worker was asked for every model and preview before memory is measured."""
    for _ in range(AT_ONCE):  # connections, which fall to one worker or another
        async with Connections(server.port) as connections:
            for example in examples:
                route, _, query = example.path.partition("?")
                preview = f"{route.rpartition('/')[0]}/preview?{query}"
                await connections.ask(post(preview, "application/octet-stream", example.file))
    return await ask_for(seconds, server.port, examples, AT_ONCE)


async def send(port: int, cases: Iterable[Case], examples: Sequence[Example]) -> Tally:
    """Each case, and a good request right behind it; so many pairs at the same time."""
    tally = Tally()
    pairs = zip(cases, cycle(examples), strict=False)

    async def caller(connections: Connections) -> None:
        for case, example in pairs:  # one iterator for all
            await _ask_hostile(connections, case, tally)
            await _ask_good(connections, example, case, tally)

    async with Connections(port) as connections, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(caller(connections))
    return tally


async def _ask_hostile(connections: Connections, case: Case, tally: Tally) -> None:
    tally.hostile += 1
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await connections.ask(case.message)
    except (OSError, BrokenOff) as error:  # a TimeoutError is an OSError
        complaint = f"no answer: {error!r}" if case.is_http else None
    else:
        complaint = case.complaint(answer.status, answer.headers, answer.body)
        tally.faults += answer.status >= 500
    if complaint:
        tally.complaints.append(f"{case.name}: {complaint}")


async def _ask_good(connections: Connections, example: Example, case: Case, tally: Tally) -> None:
    tally.good += 1
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await connections.ask(example.message())
    except (OSError, BrokenOff) as error:
        tally.wrong.append(f"{example.path} after {case.name}: {error!r}")
        return
    if not example.is_right(answer):
        what = f"{answer.status} {answer.body[:200]!r}"
        tally.wrong.append(f"{example.path} after {case.name}: {what}")
