"""Admission: a request that would wait too long is refused, before its body is read."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from time import perf_counter

from service.errors import DeadlineExceeded, LoadError, QueueFull
from service.metrics import ModelSeries

# So few are never refused: a pace that was learned too high would otherwise never be mended.
ALWAYS = 16  # items
# The pace is that of so many items, the latest most: of some batches, and of less than a second.
MEMORY = 32


class Admission:
    """The work that is inside for one model, and the pace at which it is done.

    The pace is the time in which one item is done while there is something to do: on one core or on
    sixty-four, alone or in batches, beside other models or not. So all that are inside, each for
    that time, are what somebody waits who comes now.
    """

    def __init__(self, most_seconds: float, series: ModelSeries) -> None:
        self._most = most_seconds
        self._series = series
        self._items = 0
        self._changed = 0.0  # when the items did, by the clock
        self._busy = 0.0  # seconds that the latest MEMORY items took; at first, none

    def wait(self, items: int = 0) -> float:
        """The seconds that somebody should wait who comes now, with so many items."""
        return (self._items + items) * self._busy / MEMORY

    def check(self, deadline: float) -> None:
        """Whether a request that comes now should be done in time.

        Args:
            deadline: on the event loop's clock, in seconds.

        Raises:
            QueueFull: it would wait longer than is allowed.
            DeadlineExceeded: it would wait beyond its deadline.
        """
        if self._items < ALWAYS:
            return
        wait = self.wait()
        if wait > self._most:
            raise QueueFull(
                f"{wait:.1f} s of work wait already; at most {self._most:g} s may", wait
            )
        if asyncio.get_running_loop().time() + wait > deadline:
            raise DeadlineExceeded(f"{wait:.1f} s of work are to be done before")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for one item, from before it is decoded until it is done or given up."""
        self._change(1)
        done = 1
        try:
            yield
        except (LoadError, asyncio.CancelledError):
            done = 0  # it left without its turn
            raise
        finally:
            self._change(-1, done)

    def _change(self, items: int, done: int = 0) -> None:
        now = perf_counter()
        if self._items:
            self._busy += now - self._changed
        self._changed = now
        self._items += items
        self._busy *= MEMORY / (MEMORY + done)
        self._series.backlog(self.wait())


def check(admissions: Collection[Admission], deadline: float) -> None:
    """Each model's `check`."""
    for admission in admissions:
        admission.check(deadline)
