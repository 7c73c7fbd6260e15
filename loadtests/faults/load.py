"""Load: a few callers who ask again as soon as they are answered, and what they saw."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from loadtests.compare.outcome import percentile
from loadtests.faults.examples import Example
from loadtests.wire import BrokenOff, Connections


@dataclass(frozen=True, slots=True)
class Asked:
    """One request's fate; a status of 0 stands for no answer."""

    began: float  # monotonic seconds
    seconds: float
    status: int
    is_right: bool


@dataclass(slots=True)
class Log:
    """What callers saw, in the order of their answers."""

    asked: list[Asked] = field(default_factory=list)

    def right(self) -> list[Asked]:
        return [one for one in self.asked if one.is_right]

    def wrong(self) -> list[Asked]:
        """Refused, broken off, or another answer than the model's."""
        return [one for one in self.asked if not one.is_right]

    def percentile(self, percent: float) -> float:
        """Seconds of the right answers."""
        return percentile([one.seconds for one in self.right()], percent)

    def statuses(self) -> Counter[int]:
        return Counter(one.status for one in self.asked)


async def ask_until(
    stop: asyncio.Event, port: int, examples: Sequence[Example], at_once: int, log: Log
) -> None:
    """So many callers, each asking in turn for every example until it is told to stop."""
    numbers = count()

    async def caller(connections: Connections) -> None:
        while not stop.is_set():
            await _ask(connections, examples[next(numbers) % len(examples)], log)

    async with Connections(port) as connections, asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(caller(connections))


async def ask_for(seconds: float, port: int, examples: Sequence[Example], at_once: int) -> Log:
    """The same for so long."""
    stop, log = asyncio.Event(), Log()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    await ask_until(stop, port, examples, at_once, log)
    return log


async def _ask(connections: Connections, example: Example, log: Log) -> None:
    began, status, is_right = time.monotonic(), 0, False
    try:
        answer = await connections.ask(example.message())
        status, is_right = answer.status, example.is_right(answer)
    except (OSError, BrokenOff):
        await asyncio.sleep(0.01)  # a port that nobody listens on refuses at once
    log.asked.append(Asked(began, time.monotonic() - began, status, is_right))
