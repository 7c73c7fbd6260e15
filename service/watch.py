"""Watch: what no longer moves is noticed, told of, and replaced."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from time import monotonic
from weakref import WeakKeyDictionary

from service.errors import BatchFailed, DeadlineExceeded, LoadError
from service.memory import give_memory_back
from service.pipeline import Pipeline
from service.repository import Repository
from service.served import Served

logger = logging.getLogger(__name__)

PAUSE = 1.0  # seconds between two looks
TIDY_SECONDS = 15.0  # between two times that freed memory is given back
# A lane that was interrupted ends at the graph's next node. One that goes on for so many times the
# patience is in code that cannot be stopped, and keeps a core: the process has to end.
HOPELESS = 3.0
EXAMPLE_SECONDS = 30.0  # between a model's answers to its own example


class Watch:
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
        self._examples: WeakKeyDictionary[Served, tuple[float, str | None]] = WeakKeyDictionary()
        self._stuck: str | None = None
        self._failing: str | None = None
        self.ailment: str | None = None  # why the process is not well

    async def run(self) -> None:
        """Look, again and again; at the lanes also while a decoder or an example lets us wait."""
        await asyncio.gather(
            _repeat(PAUSE, self._look_at_lanes),
            _repeat(PAUSE, self._try_out),
            _repeat(TIDY_SECONDS, lambda: asyncio.to_thread(self._tidy)),
        )

    async def look(self) -> None:
        """Find what does not move, and act: once."""
        await self._look_at_lanes()
        await self._try_out()

    async def _look_at_lanes(self) -> None:
        self._stuck = _first(self._tend(each) for each in self._repository.served())
        self._tell()

    async def _try_out(self) -> None:
        examples = map(self._try_example, self._repository.served())
        self._failing = _first(await asyncio.gather(self._try_decoders(), *examples))
        self._tell()

    def _tend(self, served: Served) -> str | None:
        """Replace what is stuck in one model, and interrupt it."""
        stuck = served.batcher.replace_stuck(self._patience)
        served.model.session.interrupt(self._patience)
        return f"{served.model.manifest.name}: {stuck} of its runs do not end" if stuck else None

    async def _try_decoders(self) -> str | None:
        """Those that are only busy, with files that came before, go on finishing some."""
        before = self._pipeline.decoded
        try:
            now = asyncio.get_running_loop().time()
            await self._pipeline.decode(bytes, b"", now + self._patience)
        except DeadlineExceeded:
            if self._pipeline.decoded == before:
                return f"no decoder was free for {self._patience:g} s"
        return None

    async def _try_example(self, served: Served) -> str | None:
        """A model that nobody asks may be broken as well: let it answer its own example."""
        last = self._examples.get(served, (0.0, None))
        example = served.model.example
        if example is None or monotonic() - last[0] < EXAMPLE_SECONDS:
            return last[1]
        ailment = None
        try:
            now = asyncio.get_running_loop().time()
            await served.batcher.submit(example, now + self._patience)
        except BatchFailed as error:
            ailment = f"{served.model.manifest.name}: its own example fails: {error}"
        except LoadError:  # it is busy, or goes
            pass
        self._examples[served] = (monotonic(), ailment)
        return ailment

    def _tidy(self) -> None:
        """Give back what larger batches, files and answers left behind."""
        for served in self._repository.served():
            with suppress(Exception):  # a graph that fails is found by its example
                served.model.release()
        gc.collect()  # errors and their tracebacks hold each other, and the bodies that they are of
        give_memory_back()

    def _tell(self) -> None:
        ailment = self._stuck or self._failing
        if ailment and not self.ailment:
            logger.error("not well: %s", ailment)
            self._since = monotonic()
        elif self.ailment and not ailment:
            logger.info("well again")
        self.ailment = ailment
        if ailment and self._since and monotonic() - self._since > HOPELESS * self._patience:
            logger.critical("cannot be helped, so this worker ends: %s", ailment)
            os.kill(os.getpid(), signal.SIGTERM)  # its work is drained, and BentoML starts another


async def _repeat(pause: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(pause)
        await act()


def _first(ailments: Iterable[str | None]) -> str | None:
    """Of those that there are; all are looked for, since looking helps."""
    return next((ailment for ailment in list(ailments) if ailment), None)
