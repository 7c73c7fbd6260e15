"""Watch: what no longer moves is noticed, told of, and replaced."""

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

PAUSE = 1.0  # seconds between two looks
LATE = 1.0  # seconds; after a longer delay of a look the process, not a lane, stood still
TIDY_SECONDS = 15.0  # between two times that freed memory is given back
# A lane that was interrupted ends at the graph's next node. One that goes on for so many times the
# patience is in code that cannot be stopped, and keeps a core: the process has to end.
HOPELESS = 3.0
EXAMPLE_SECONDS = 30.0  # between a model's answers to its own example
# A slow model spends no more of its time on its example, and none on giving memory back.
EXAMPLE_SHARE = 0.05
SLOW_SECONDS = 0.5  # of an item


class Ailment(NamedTuple):
    """What does not move, and for how long it may take normally."""

    reason: str
    patience: float  # seconds


class Watchdog:
    """Looks after the lanes and the decoders of one process."""

    def __init__(self, repository: Repository, pipeline: Pipeline, patience: float) -> None:
        """Args:
        patience: the seconds after which a batch, or a decoder, counts as stuck.
        """
        self._repository = repository
        self._pipeline = pipeline
        self._patience = patience
        self._since: float | None = None  # when it was first unwell, on the monotonic clock
        # When each model answered its example, and what was wrong with the answer
        self._examples: WeakKeyDictionary[Servable, tuple[float, Ailment | None]] = (
            WeakKeyDictionary()
        )
        self._looked = monotonic()  # at the lanes
        self._stuck: Ailment | None = None
        self._failing: Ailment | None = None
        self.ailment: str | None = None  # why the process is not well

    async def run(self) -> None:
        """Look, again and again; at the lanes also while a decoder or an example lets us wait."""
        looks = {
            "watching the lanes": partial(_repeat, PAUSE, self._look_at_lanes),
            "watching decoders and examples": partial(_repeat, PAUSE, self._try_out),
            "giving memory back": partial(
                _repeat, TIDY_SECONDS, lambda: asyncio.to_thread(self._tidy)
            ),
        }
        await asyncio.gather(*(supervise(name, look) for name, look in looks.items()))

    async def look(self) -> None:
        """Find what does not move, and act: once."""
        await self._look_at_lanes()
        await self._try_out()

    async def _look_at_lanes(self) -> None:
        self._excuse_a_standstill()
        self._stuck = _first(self._tend(each) for each in self._repository.alive())
        self._tell()

    def _excuse_a_standstill(self) -> None:
        """Where the whole process stood still, by a signal or with its machine, no lane did."""
        now = monotonic()
        late, self._looked = now - self._looked - PAUSE, now
        if late > LATE:
            for served in self._repository.alive():
                served.batcher.excuse(late)
            if self._since:
                self._since += late

    async def _try_out(self) -> None:
        served = self._repository.served()
        examples = [self._try_example(each) for each in served if self._is_due(each)]
        decoders, *_ = await asyncio.gather(self._try_decoders(), *examples)
        self._failing = decoders or _first(self._last_trial(each)[1] for each in served)
        self._tell()

    def _tend(self, served: Servable) -> Ailment | None:
        """Replace what is stuck in one model, and interrupt it."""
        stuck = served.batcher.replace_stuck(self._patience)
        if not stuck:
            return None
        served.model.session.interrupt([lane.thread.ident for lane in stuck])
        name = served.model.manifest.name
        patience = max(lane.patience(self._patience) for lane in stuck)
        return Ailment(f"{name}: {len(stuck)} of its runs do not end", patience)

    async def _try_decoders(self) -> Ailment | None:
        """Those that are only busy, with files that came before, go on finishing some."""
        before = self._pipeline.decoded
        try:
            now = asyncio.get_running_loop().time()
            await self._pipeline.decode(bytes, b"", now + self._patience)
        except DeadlineExceeded:
            if self._pipeline.decoded == before:
                reason = f"no decoder was free for {self._patience:g} s"
                return Ailment(reason, self._patience)
        return None

    def _is_due(self, served: Servable) -> bool:
        """Whether a model that was asked since its last trial, or failed it, is to be tried now."""
        tried, ailment = self._last_trial(served)
        pause = max(EXAMPLE_SECONDS, served.model.speed.item / EXAMPLE_SHARE)
        in_use = served.batcher.last_submitted > tried
        return (in_use or ailment is not None) and monotonic() - tried >= pause

    def _last_trial(self, served: Servable) -> tuple[float, Ailment | None]:
        return self._examples.get(served, (-math.inf, None))

    async def _try_example(self, served: Servable) -> None:
        """Let a model answer its own example: one that fails may be broken for all."""
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
        except LoadError:  # it is busy, or goes
            pass
        self._examples[served] = (monotonic(), ailment)

    def _tidy(self) -> None:
        """Give back what larger batches, files and answers left behind."""
        for served in self._repository.served():
            if served.model.speed.item > SLOW_SECONDS:
                continue
            with suppress(Exception):  # a graph that fails is found by its example
                served.model.release()
        gc.collect()  # errors and their tracebacks hold each other, and the bodies that they are of
        give_memory_back()

    def _tell(self) -> None:
        ailment = self._stuck or self._failing
        if ailment and not self.ailment:
            logger.error("not well: %s", ailment.reason)
            self._since = monotonic()
        elif self.ailment and not ailment:
            logger.info("well again")
            self._since = None
        self.ailment = ailment.reason if ailment else None
        if ailment and self._since and monotonic() - self._since > HOPELESS * ailment.patience:
            end_worker(f"it cannot be helped: {ailment.reason}")


async def _repeat(pause: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(pause)
        await act()


def _first(ailments: Iterable[Ailment | None]) -> Ailment | None:
    """Of those that there are; all are looked for, since looking helps."""
    return next((ailment for ailment in list(ailments) if ailment), None)
