"""Admission: a request with a too long expected wait is refused before its body is read."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from time import perf_counter

from service.errors import DeadlineExceeded, LoadError, QueueFull
from service.metrics import ModelSeries

# So many items are always admitted: a pace that was learned too slow could otherwise not recover. A
# slow model admits as many as it computes within the longest wait, and at least one per lane.
ALWAYS = 16  # items
# The expected wait may take this share of the time until a request's deadline. The pace is a moment
# old: with 0.75, at ten times the capacity, one request in twenty missed its deadline.
MAX_OF_DEADLINE = 0.6
# A longer time between two items does not count: the process may have been stopped.
LONGEST = 10.0  # seconds, or five times the measurement at load
# The pace is an average over so many items, the latest with the highest weight.
MEMORY = 32


class Admission:
    """The admitted items of one model, and its pace.

    The pace is the time per item while the model has work, whatever the cores, the batches and the
    other models are. The expected wait of a new request is the number of admitted items times the
    pace.

    A request holds places for all its items at once, so that requests that arrive together are all
    counted. The pace is learned item by item, within a `with` block around each.
    """

    def __init__(
        self, max_seconds: float, series: ModelSeries, *, pace: float = 0.0, lanes: int = 1
    ) -> None:
        """Args:
        max_seconds: the longest expected wait.
        pace: seconds per item, as measured at load; 0: unknown.
        lanes: batches that are computed at the same time.
        """
        self._max_seconds = max_seconds
        self._series = series
        self._always = (
            ALWAYS if pace * ALWAYS <= max_seconds else max(lanes, int(max_seconds / pace))
        )
        self._longest = max(LONGEST, 5 * pace * lanes)
        self._items = 0  # admitted, of requests without a response yet
        self._at_work = 0  # items between decoding and their result
        self._updated = 0.0  # by perf_counter
        self._busy = pace * MEMORY  # seconds for the latest MEMORY items

    @property
    def wait(self) -> float:
        """Expected wait of a request that arrives now, in seconds."""
        return self._items * self._busy / MEMORY

    def check(self, deadline: float) -> None:
        """Check that a request that arrives now can be answered in time.

        Args:
            deadline: on the event loop's clock, in seconds.

        Raises:
            QueueFull: the expected wait is too long, or takes most of the time until the deadline.
            DeadlineExceeded: the expected wait ends after the deadline.
        """
        if self._items < self._always:
            return
        wait, left = self.wait, deadline - asyncio.get_running_loop().time()
        if wait > self._max_seconds:
            raise QueueFull(
                f"{wait:.1f} s of work wait already; at most {self._max_seconds:g} s may", wait
            )
        if wait > left:
            raise DeadlineExceeded(f"{wait:.1f} s of work are to be done before")
        if wait > MAX_OF_DEADLINE * left:
            raise QueueFull(f"{wait:.1f} s of work wait already, and {left:.1f} s are left", wait)

    def hold(self, items: int) -> None:
        """Admit so many items; negative: release them."""
        self._items += items
        self._series.backlog(self.wait)

    def __enter__(self) -> None:
        """Work on one item begins; it ends with its result or its error."""
        self._count_time()
        self._at_work += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._count_time()
        self._at_work -= 1
        if kind is None or not issubclass(kind, LoadError | asyncio.CancelledError):
            self._busy *= MEMORY / (MEMORY + 1)  # the model has computed it

    def _count_time(self) -> None:
        """Count the time since the last update, if the model had work."""
        now = perf_counter()
        if self._at_work:
            self._busy += min(now - self._updated, self._longest)
        self._updated = now


def check(admissions: Collection[Admission], deadline: float) -> None:
    """Check each model."""
    for admission in admissions:
        admission.check(deadline)


@contextmanager
def enter(admissions: Collection[Admission], items: int, deadline: float) -> Iterator[None]:
    """Hold places for so many items in each model.

    Raises:
        QueueFull, DeadlineExceeded: as `check`; other requests may have entered meanwhile.
    """
    check(admissions, deadline)
    for admission in admissions:
        admission.hold(items)
    try:
        yield
    finally:
        for admission in admissions:
            admission.hold(-items)
