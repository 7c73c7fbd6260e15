"""Admission: a request that would wait too long is refused, before its body is read."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter

from service.errors import DeadlineExceeded, QueueFull
from service.metrics import ModelSeries

# So few are never refused: a pace that was learned too high would otherwise never be mended.
ALWAYS = 16  # items
# The most by which those who are inside together change the pace: what one of them teaches shows
# in the time of those only who come after it, and quicker learning would swing.
GAIN = 0.5


class Admission:
    """The work that is inside for one model, and the pace at which it is done.

    By Little's law a request takes as long as all items that are inside meanwhile, on one core or
    on sixty-four, alone or in batches, beside other models or not. So how long it really took, by
    their number, is the time for which one item keeps the others waiting: the pace.
    """

    def __init__(self, most_seconds: float, series: ModelSeries) -> None:
        self._most = most_seconds
        self._series = series
        self._items = 0
        self._pace = 0.0  # seconds an item; until the first one is done, nothing

    @property
    def wait(self) -> float:
        """The seconds that a request which comes now should wait."""
        return self._items * self._pace

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
        wait = self.wait
        if wait > self._most:
            raise QueueFull(
                f"{wait:.1f} s of work wait already; at most {self._most:g} s may", wait
            )
        if asyncio.get_running_loop().time() + wait > deadline:
            raise DeadlineExceeded(f"{wait:.1f} s of work are to be done before")

    @contextmanager
    def enter(self, items: int, deadline: float) -> Iterator[None]:
        """Hold a place for so many items.

        Raises:
            QueueFull: as `check` does, now that others may have entered before.
            DeadlineExceeded: likewise.
        """
        self.check(deadline)
        self._change(items)
        came, there = perf_counter(), self._items
        try:
            yield
        except DeadlineExceeded:
            self._learn(items, there, perf_counter() - came, given_up=True)
            raise
        else:
            self._learn(items, there, perf_counter() - came)
        finally:
            self._change(-items)

    def _learn(self, items: int, there: int, took: float, *, given_up: bool = False) -> None:
        inside = (there + self._items) / 2  # meanwhile
        pace = took / inside
        if not self._pace:
            self._pace = pace
        elif pace > self._pace or not given_up:  # what was given up would have taken longer
            step = (pace - self._pace) / max(pace, self._pace)
            self._pace *= 1 + GAIN * items / inside * step

    def _change(self, items: int) -> None:
        self._items += items
        self._series.backlog(self.wait)


def check(admissions: Collection[Admission], deadline: float) -> None:
    """Each model's `check`."""
    for admission in admissions:
        admission.check(deadline)


@contextmanager
def enter(admissions: Collection[Admission], items: int, deadline: float) -> Iterator[None]:
    """A place for so many items in each model."""
    with ExitStack() as places:
        for admission in admissions:
            places.enter_context(admission.enter(items, deadline))
        yield
