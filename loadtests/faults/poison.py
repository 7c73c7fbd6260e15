"""A poisoned item: the graph fails on it, and with it on the whole batch that it is in."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from loadtests.faults.bench import Bench
from loadtests.faults.figures import Figure
from loadtests.faults.graphs import MARKER, picture, write_brittle
from loadtests.wire import Answer, Connections, post
from tests.hostile.forms import FORM, multipart

PATH = "/v1/image/embed?model=brittle"
BATCHES = (8, 32)
LANES = (1, 3)
TIMES = 20


def poison(bench: Bench) -> Iterator[Figure]:
    """One error, and the others right: as items of one request, and as requests of their own."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        write_brittle(models)
        for lanes in LANES:
            with bench.server(f"poison-{lanes}", models, SENSORIUM_LANES=str(lanes)) as server:
                for size in BATCHES:
                    wrong = asyncio.run(_send(server.port, size))
                    what = f"{lanes} lanes, 1 of {size} poisoned: items answered wrongly"
                    yield Figure(what, wrong, most=0)
                failures = server.metric("sensorium_batch_failures_total")
                yield Figure(f"{lanes} lanes: runs that failed and were halved", failures)


async def _send(port: int, size: int) -> int:
    """How many of all the items got what they should not."""
    wrong = 0
    async with Connections(port) as connections:
        for number in range(TIMES):
            levels = [level % MARKER for level in range(number, number + size)]
            levels[number % size] = MARKER
            files = [picture(level) for level in levels]
            crowd = await connections.ask(post(PATH, FORM, multipart(files)))
            wrong += _wrong_items(crowd, levels)
            alone = [connections.ask(post(PATH, "image/png", file)) for file in files]
            answers = await asyncio.gather(*alone)
            wrong += sum(not _is_right(*pair) for pair in zip(answers, levels, strict=True))
    return wrong


def _wrong_items(answer: Answer, levels: list[int]) -> int:
    if answer.status != 200:
        return len(levels)
    results = json.loads(answer.body)["results"]
    return sum(
        result["error"]["status"] != 500 if level == MARKER else result.get("vector") != [level]
        for result, level in zip(results, levels, strict=True)
    )


def _is_right(answer: Answer, level: int) -> bool:
    if level == MARKER:
        return answer.status == 500
    return answer.status == 200 and json.loads(answer.body)["results"][0]["vector"] == [level]
