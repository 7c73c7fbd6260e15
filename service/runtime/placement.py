"""Cores: which batch is computed on which, whether it has all of them, and who waits."""

import asyncio
import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import perf_counter

from service.limits import AFFINITY

NICENESS = 3  # of a thread that computes, more than the others': half their weight
# A batch may take all cores when there was none beside another for so long. Of two callers who are
# answered at the same time, one asks first: on all cores it would be in the other's way. Two to
# four callers get a fifth more short texts so.
QUIET_SECONDS = 0.05


class Cores:
    """The cores of this process, each with the number of batches that are computed on it.

    A batch has a core, but need not keep to it. Where lanes and cores are equally many, kernels
    leave two lanes on one core for milliseconds, and the other core idle: a lane that is woken
    goes to where it was woken from, and idle cores fetch nothing that ran a moment ago.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._lock = threading.Lock()
        self._batches = dict.fromkeys(sorted(numbers), 0)
        self._accompanied = -math.inf  # when there was last more than one, by perf_counter
        self._answering: int | None = None  # the thread that answers, as the kernel numbers it
        self._answered_on: int | None = None  # the core that it keeps to

    @contextmanager
    def computing(
        self,
        last: int | None = None,
        *,
        more: bool = False,
        exclusive_core: int | None = None,
        followed: bool = False,
    ) -> Iterator[tuple[bool, int]]:
        """Count one batch more.

        Args:
            last: the core that its lane had before, which knows its data.
            more: others wait, or have come together with it.
            lone: the core of a lane that takes all of them.
            followed: who answers keeps to that core behind it. On the others, threads of the run
                spin for a while, and the kernel might let who answers wait for one, up to 2 ms.

        Yields:
            Whether it may take all cores, and its own: that one, or the one with the fewest others.
        """
        with self._lock:
            now = perf_counter()
            if more or any(self._batches.values()):
                self._accompanied = now
            exclusive = now - self._accompanied > QUIET_SECONDS
            own = exclusive_core if exclusive else None
            wanted = last if own is None else own
            self._answer_on(None)
            core = min(self._batches, key=lambda number: (self._batches[number], number != wanted))
            self._batches[core] += 1
        try:
            yield exclusive, core
        finally:
            with self._lock:
                self._batches[core] -= 1
                if any(self._batches.values()):
                    self._accompanied = perf_counter()
                elif followed:
                    self._answer_on(own)

    def answered_by(self, thread: int | None) -> None:
        """From now on by this thread, as the kernel numbers it; None: by none, as before."""
        with self._lock:
            self._answer_on(None)
            self._answering = thread

    def pin(self, core: int | None, thread: int = 0) -> None:
        """Let a thread, by default the calling one, run on one core only, or again on all."""
        # Where the container's cores have changed since the start, the kernel keeps to those. Not
        # every system has such a call.
        with suppress(OSError, AttributeError):
            os.sched_setaffinity(thread, self._batches if core is None else {core})

    def _answer_on(self, core: int | None) -> None:
        if self._answering is not None and core != self._answered_on:
            self.pin(core, self._answering)
            self._answered_on = core


CORES = Cores(AFFINITY)


def build_pool(threads: int | None = None, name: str = "") -> ThreadPoolExecutor:
    """Threads on all cores: a new one begins on those of its maker, who may keep to one."""
    return ThreadPoolExecutor(threads, name, CORES.pin, (None,))


def answer_here() -> None:
    """To be called on the event loop: it answers, and may have to keep to a core."""
    asyncio.get_running_loop().set_default_executor(build_pool())
    CORES.answered_by(threading.get_native_id())


def lower_priority() -> None:
    """Let the calling thread run after those that answer, where there are too few cores for both.

    A thread that computes is runnable all the time, and so is one that answers a flood of callers:
    sharing a core by halves, the slowest of 300 probes took 40 to 600 ms, so 25 to 130.
    Only Linux knows of threads here; elsewhere it would be the whole process.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # a sandbox may forbid both calls; lanes then compete with the rest
            # From where it is: only root may come back to 3 from what `nice` has begun with.
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + NICENESS
            os.setpriority(os.PRIO_PROCESS, thread, niceness)  # above 19 is 19
