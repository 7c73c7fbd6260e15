"""Placement: which batch may take all cores, which threads are pinned, and which yield."""

import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from time import perf_counter

from service.limits import AFFINITY

NICENESS = 3  # of a thread that computes, more than the others': half their weight
# A batch may take all cores if no two batches overlapped for this long. Clients that are answered
# together ask again together, and the first must not take the cores from the second: two to four
# clients get a fifth more short texts.
QUIET_SECONDS = 0.05


class Batches:
    """Counts the batches on each core, and remembers when two last overlapped.

    Lanes are pinned if each core has one. Otherwise the kernel leaves two lanes on one core for
    milliseconds while the other core is idle: eight clients get a fifth fewer digits.
    """

    def __init__(self, cores: Iterable[int] = AFFINITY) -> None:
        self._lock = threading.Lock()
        self._on_core = dict.fromkeys(sorted(cores), 0)
        self._overlapped = -math.inf  # by perf_counter

    @contextmanager
    def computing(
        self, last: int | None = None, *, more: bool = False, exclusive_core: int | None = None
    ) -> Iterator[tuple[bool, int]]:
        """Count one more batch.

        Args:
            last: the core of the lane's batch before, which has its data in its cache.
            more: the batch holds several items, or others wait.
            exclusive_core: the core of the lane if the batch may take all cores.

        Yields:
            Whether the batch may take all cores, and the core of its lane: the least busy one.
        """
        with self._lock:
            now = perf_counter()
            if more or any(self._on_core.values()):
                self._overlapped = now
            exclusive = now - self._overlapped > QUIET_SECONDS
            wanted = exclusive_core if exclusive and exclusive_core is not None else last
            core = min(self._on_core, key=lambda number: (self._on_core[number], number != wanted))
            self._on_core[core] += 1
        try:
            yield exclusive, core
        finally:
            with self._lock:
                self._on_core[core] -= 1
                if any(self._on_core.values()):
                    self._overlapped = perf_counter()


BATCHES = Batches()


def pin(core: int | None) -> None:
    """Let the calling thread run on one core only, or again on all."""
    # If the container's cores have changed since the start, the kernel keeps to those. Not every
    # system has such a call.
    with suppress(OSError, AttributeError):
        os.sched_setaffinity(0, AFFINITY if core is None else {core})


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
