"""Open loop: callers who come at their time, whether or not those before them were answered.

Locust itself keeps a number of users, and has no rate at which they come. So it is told to keep
none, and each of its processes lets callers in by its own clock, at its share of the rate. A caller
is a user who asks once and leaves; those whom Locust counts are the ones who wait.
"""

import random
import time
from typing import Any

from locust import FastHttpUser, LoadTestShape
from locust.env import Environment
from locust.rpc import Message
from locust.runners import (
    STATE_RUNNING,
    WORKER_REPORT_INTERVAL,
    LocalRunner,
    MasterRunner,
    Runner,
)

from loadtests.shapes import SHAPES, arrivals

MESSAGE = "arrivals"  # to all processes that ask, when each of them is ready


class Guest(FastHttpUser):
    """A user who can be such a caller."""

    abstract = True
    due: float | None = None  # when one should have come, by time.perf_counter()


class UntilAllHaveLeft(LoadTestShape):
    """Keeps a run without users of its own going until the last caller has left."""

    abstract = True  # open_doors() takes it; Locust is not to find it by itself
    seconds: float

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        over = time.perf_counter() - self.start_time > self.seconds
        return None if over and not self.runner.user_count else (0, 1.0)


def open_doors(environment: Environment, shape: str, peak: float, seconds: float) -> None:
    """Make the run that is to begin an open loop; for the process that coordinates it."""
    runner = environment.runner
    assert isinstance(runner, LocalRunner | MasterRunner)

    def announce(**_: Any) -> None:
        share = peak / runner.worker_count
        runner.send_message(MESSAGE, {"shape": shape, "peak": share, "seconds": seconds})

    keeper = UntilAllHaveLeft()  # type: ignore[no-untyped-call]
    keeper.runner = runner
    keeper.seconds = seconds + WORKER_REPORT_INTERVAL  # a worker's count may be as old as that
    environment.shape_class = keeper
    environment.events.spawning_complete.add_listener(announce)


def wait_at_doors(runner: Runner) -> None:
    """Let callers in when the word comes; for each process that asks."""

    def begin(msg: Message, **_: Any) -> None:
        runner.greenlet.spawn(_let_in, runner, **msg.data)

    runner.register_message(MESSAGE, begin)


def _let_in(runner: Runner, shape: str, peak: float, seconds: float) -> None:
    kinds = [kind for kind in runner.user_classes if issubclass(kind, Guest)]
    weights = [kind.weight for kind in kinds]
    start = time.perf_counter()
    for after in arrivals(SHAPES[shape], peak, seconds, random.Random()):
        time.sleep(max(0.0, start + after - time.perf_counter()))
        if runner.state != STATE_RUNNING:
            return
        [kind] = random.choices(kinds, weights)
        guest = kind(runner.environment)
        guest.due = start + after
        guest.start(runner.user_greenlets)
