"""Cores: how many batches are computed at this moment, which of them has which, and who waits."""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from service.limits import affinity

NICENESS = 3  # of a thread that computes: half the weight of another


class Cores:
    """The cores of this process, each with the number of batches that are computed on it.

    A batch has a core, but need not keep to it. Where lanes and cores are equally many, kernels
    leave two lanes on one core for milliseconds, and the other core idle: a lane that is woken
    goes to where it was woken from, and idle cores fetch nothing that ran a moment ago.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._lock = threading.Lock()
        self._batches = dict.fromkeys(numbers, 0)

    @contextmanager
    def computing(self, last: int | None = None) -> Iterator[tuple[int, int]]:
        """Count one batch more.

        Args:
            last: the core that its lane had before, which knows its data.

        Yields:
            How many others there are, and the core with the fewest of them.
        """
        with self._lock:
            others = sum(self._batches.values())
            core = min(self._batches, key=lambda number: (self._batches[number], number != last))
            self._batches[core] += 1
        try:
            yield others, core
        finally:
            with self._lock:
                self._batches[core] -= 1

    def keep_to(self, core: int | None) -> None:
        """Let the calling thread run on one core only, or again on all."""
        # Where the container's cores have changed since the start, the kernel keeps to those.
        with suppress(OSError):
            os.sched_setaffinity(0, self._batches if core is None else {core})


CORES = Cores(affinity())


def give_way() -> None:
    """Let the calling thread run after those that answer, where there are too few cores for both.

    A thread that computes is runnable all the time, and so is one that answers a flood of callers:
    sharing a core by halves, the slowest of 300 probes took 40 to 600 ms, so 25 to 130.
    Only Linux knows of threads here; elsewhere it would be the whole process.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
