"""Admission: a request that would wait too long is refused, before its body is read."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from time import perf_counter

from service.errors import DeadlineExceeded, LoadError, QueueFull
from service.metrics import ModelSeries

# So few are never refused: a pace that was learned too high would otherwise never be mended. Of a
# slow model, by the pace measured at load, it is what is done in time; an item a lane at least.
ALWAYS = 16  # items
# Of the time that is left to a request. The pace is that of a moment ago: at ten times the capacity
# one in twenty of those that were to wait for three quarters of their second came too late.
MAX_OF_DEADLINE = 0.6
# Of the time between two items, more is not learned from: the process may have been stopped.
LONGEST = 10.0  # seconds, or five times what was measured at load
# The pace is that of so many items, the latest most: of some batches, and of less than a second.
MEMORY = 32


class Admission:
    """The work that is inside for one model, and the pace at which it is done.

    The pace is the time in which one item is done while there is something to do: on one core or on
    sixty-four, alone or in batches, beside other models or not. So all that are inside, each for
    that time, are what somebody waits who comes now.

    Requests take their places at once, so that of a crowd that comes together nobody is overlooked;
    the pace is learned item by item, each of which is worked at within a `with` of its own.
    """

    def __init__(
        self, most_seconds: float, series: ModelSeries, *, pace: float = 0.0, lanes: int = 1
    ) -> None:
        """Args:
        most_seconds: that a request may wait.
        pace: seconds of an item, as measured at load; 0: not known.
        lanes: that compute at once.
        """
        self._most = most_seconds
        self._series = series
        self._always = (
            ALWAYS if pace * ALWAYS <= most_seconds else max(lanes, int(most_seconds / pace))
        )
        self._longest = max(LONGEST, 5 * pace * lanes)
        self._items = 0  # that were let in, of requests that are not answered yet
        self._at_work = 0  # items
        self._looked = 0.0  # by the clock
        self._busy = pace * MEMORY  # seconds that the latest MEMORY items took

    @property
    def wait(self) -> float:
        """The seconds that a request which comes now should wait."""
        return self._items * self._busy / MEMORY

    def check(self, deadline: float) -> None:
        """Whether a request that comes now should be done in time.

        Args:
            deadline: on the event loop's clock, in seconds.

        Raises:
            QueueFull: it would wait longer than is allowed, or for most of the time that it has.
            DeadlineExceeded: it would wait beyond its deadline.
        """
        if self._items < self._always:
            return
        wait, left = self.wait, deadline - asyncio.get_running_loop().time()
        if wait > self._most:
            raise QueueFull(
                f"{wait:.1f} s of work wait already; at most {self._most:g} s may", wait
            )
        if wait > left:
            raise DeadlineExceeded(f"{wait:.1f} s of work are to be done before")
        if wait > MAX_OF_DEADLINE * left:
            raise QueueFull(f"{wait:.1f} s of work wait already, and {left:.1f} s are left", wait)

    def hold(self, items: int) -> None:
        """So many items more are inside, or less."""
        self._items += items
        self._series.backlog(self.wait)

    def __enter__(self) -> None:
        """One item is worked at, from before it is decoded until it is done or given up."""
        self._spend()
        self._at_work += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._spend()
        self._at_work -= 1
        if kind is None or not issubclass(kind, LoadError | asyncio.CancelledError):
            self._busy *= MEMORY / (MEMORY + 1)  # it had its turn

    def _spend(self) -> None:
        """The time since the last look went into items, if any is worked at."""
        now = perf_counter()
        if self._at_work:
            self._busy += min(now - self._looked, self._longest)
        self._looked = now


def check(admissions: Collection[Admission], deadline: float) -> None:
    """Each model's `check`."""
    for admission in admissions:
        admission.check(deadline)


@contextmanager
def enter(admissions: Collection[Admission], items: int, deadline: float) -> Iterator[None]:
    """A place for so many items in each model.

    Raises:
        QueueFull, DeadlineExceeded: as `check` does, now that others may have entered before.
    """
    check(admissions, deadline)
    for admission in admissions:
        admission.hold(items)
    try:
        yield
    finally:
        for admission in admissions:
            admission.hold(-items)
