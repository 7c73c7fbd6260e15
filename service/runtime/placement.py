"""Placement: which batch may take all cores, which threads are pinned, and which yield."""

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import perf_counter

from service.limits import AFFINITY

NICENESS = 3  # of a thread that computes, more than the others': half their weight
# A batch may take all cores if no two batches overlapped for this long. Clients that are answered
# together ask again together, and the first must not take the cores from the second: two to four
# clients get a fifth more short texts.
QUIET_SECONDS = 0.05


class Batches:
    """Counts the batches that this process computes, and remembers when two last overlapped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._overlapped = -math.inf  # by perf_counter

    @contextmanager
    def computing(self, *, more: bool = False) -> Iterator[bool]:
        """Count one more batch.

        Args:
            more: the batch holds several items, or others wait.

        Yields:
            Whether the batch may take all cores.
        """
        with self._lock:
            now = perf_counter()
            if more or self._running:
                self._overlapped = now
            exclusive = now - self._overlapped > QUIET_SECONDS
            self._running += 1
        try:
            yield exclusive
        finally:
            with self._lock:
                self._running -= 1
                if self._running:
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
