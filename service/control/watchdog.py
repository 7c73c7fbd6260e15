"""The watchdog: finds stuck lanes, decoders and models, reports them, and replaces lanes."""

import asyncio
import gc
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import NamedTuple
from weakref import WeakKeyDictionary

from service.control.repository import Repository
from service.errors import BatchFailed, DeadlineExceeded, LoadError
from service.inference.pipeline import Pipeline
from service.inference.servable import Servable
from service.runtime.memory import give_memory_back
from service.supervision import end_worker, supervise

logger = logging.getLogger(__name__)

PAUSE = 1.0  # seconds between two checks
LATE = 1.0  # seconds; if a check is later than this, the whole process stood still, not a lane
TRIM_SECONDS = 15.0  # between two releases of freed memory
# An interrupted lane ends at the graph's next node. A lane that is still stuck after this many
# times its patience cannot be stopped and occupies a core, so the process ends.
HOPELESS = 3.0
EXAMPLE_SECONDS = 30.0  # between two runs of a model's own example
EXAMPLE_SHARE = 0.05  # of a model's time, at most, for its example
SLOW_SECONDS = 0.5  # per item; slower models release no memory


class Ailment(NamedTuple):
    """Something that is stuck or fails."""

    reason: str
    patience: float  # seconds that it takes at most when it works


class Watchdog:
    """Checks the lanes, decoders and models of one process."""

    def __init__(self, repository: Repository, pipeline: Pipeline, patience: float) -> None:
        """Args:
        patience: seconds after which a batch or a decoder counts as stuck.
        """
        self._repository = repository
        self._pipeline = pipeline
        self._patience = patience
        self._since: float | None = None  # start of the current ailment, on the monotonic clock
        # When each model last ran its example, and whether the run failed
        self._examples: WeakKeyDictionary[Servable, tuple[float, Ailment | None]] = (
            WeakKeyDictionary()
        )
        self._checked = monotonic()  # time of the last check of the lanes
        self._stuck: Ailment | None = None
        self._failing: Ailment | None = None
        self.ailment: str | None = None  # why the process is not alive, for /livez

    async def run(self) -> None:
        """Check in three independent tasks: a slow decoder or example delays no check of lanes."""
        checks = {
            "watching the lanes": partial(_repeat, PAUSE, self._check_lanes),
            "watching decoders and examples": partial(_repeat, PAUSE, self._try_out),
            "releasing memory": partial(
                _repeat, TRIM_SECONDS, lambda: asyncio.to_thread(self._release_memory)
            ),
        }
        await asyncio.gather(*(supervise(name, check) for name, check in checks.items()))

    async def look(self) -> None:
        """Run all checks once."""
        await self._check_lanes()
        await self._try_out()

    async def _check_lanes(self) -> None:
        self._excuse_standstill()
        self._stuck = _first(self._replace_stuck_lanes(each) for each in self._repository.alive())
        self._report()

    def _excuse_standstill(self) -> None:
        """Extend the lanes' time if the whole process stood still, stopped or with its machine."""
        now = monotonic()
        late, self._checked = now - self._checked - PAUSE, now
        if late > LATE:
            for served in self._repository.alive():
                served.batcher.excuse(late)
            if self._since:
                self._since += late

    async def _try_out(self) -> None:
        served = self._repository.served()
        examples = [self._run_example(each) for each in served if self._is_example_due(each)]
        decoders, *_ = await asyncio.gather(self._check_decoders(), *examples)
        self._failing = decoders or _first(self._last_trial(each)[1] for each in served)
        self._report()

    def _replace_stuck_lanes(self, served: Servable) -> Ailment | None:
        stuck = served.batcher.replace_stuck(self._patience)
        if not stuck:
            return None
        served.model.session.interrupt([lane.thread.ident for lane in stuck])
        name = served.model.manifest.name
        patience = max(lane.patience(self._patience) for lane in stuck)
        return Ailment(f"{name}: {len(stuck)} of its runs are stuck", patience)

    async def _check_decoders(self) -> Ailment | None:
        before = self._pipeline.decoded
        try:
            now = asyncio.get_running_loop().time()
            await self._pipeline.decode(bytes, b"", now + self._patience)
        except DeadlineExceeded:
            if self._pipeline.decoded == before:
                reason = f"no decoder was free for {self._patience:g} s"
                return Ailment(reason, self._patience)
        return None

    def _is_example_due(self, served: Servable) -> bool:
        tried, ailment = self._last_trial(served)
        pause = max(EXAMPLE_SECONDS, served.model.speed.item / EXAMPLE_SHARE)
        in_use = served.batcher.last_submitted > tried
        return (in_use or ailment is not None) and monotonic() - tried >= pause

    def _last_trial(self, served: Servable) -> tuple[float, Ailment | None]:
        return self._examples.get(served, (-math.inf, None))

    async def _run_example(self, served: Servable) -> None:
        example = served.model.example
        if example is None:
            return
        ailment = None
        patience = served.batcher.patience(example.cost, self._patience)
        try:
            now = asyncio.get_running_loop().time()
            await served.batcher.submit(example, now + patience)
        except BatchFailed as error:
            name = served.model.manifest.name
            ailment = Ailment(f"{name}: its own example fails: {error}", self._patience)
        except LoadError:  # the model is busy, or being unloaded
            pass
        self._examples[served] = (monotonic(), ailment)

    def _release_memory(self) -> None:
        for served in self._repository.served():
            if served.model.speed.item > SLOW_SECONDS:
                continue
            with suppress(Exception):  # the example run reports a failing graph
                served.model.release()
        gc.collect()  # errors and tracebacks form cycles, which hold request bodies
        give_memory_back()

    def _report(self) -> None:
        ailment = self._stuck or self._failing
        if ailment and not self.ailment:
            logger.error("watchdog: %s", ailment.reason)
            self._since = monotonic()
        elif self.ailment and not ailment:
            logger.info("watchdog: recovered")
            self._since = None
        self.ailment = ailment.reason if ailment else None
        if ailment and self._since and monotonic() - self._since > HOPELESS * ailment.patience:
            end_worker(f"it does not recover: {ailment.reason}")


async def _repeat(pause: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(pause)
        await act()


def _first(ailments: Iterable[Ailment | None]) -> Ailment | None:
    """The first ailment. All are evaluated first, because evaluation replaces stuck lanes."""
    return next((ailment for ailment in list(ailments) if ailment), None)
