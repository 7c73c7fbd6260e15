"""Admission: a request that would wait too long is refused, before its body is read."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from service.errors import DeadlineExceeded, QueueFull
from service.metrics import BACKLOG

# So few are never refused: a pace that was learned too high would otherwise never be mended.
ALWAYS = 16  # items
# The most by which those who are inside together change the pace: what one of them teaches shows
# in the time of those only who come after it, and quicker learning would swing.
GAIN = 0.5


class Pace:
    """The seconds by which one item of a model keeps all others waiting.

    By Little's law a request takes as long as the work that is inside meanwhile, on one core or on
    sixty-four, alone or in batches. So how long it really took tells the pace.
    """

    def __init__(self) -> None:
        self.seconds = 0.0  # until the first item is done

    def learn(self, took: float, expected: float, share: float) -> None:
        """From a request that took so long, in seconds, and was this share of what was inside."""
        self.seconds *= 1 + GAIN * share * (took - expected) / max(took, expected)


@dataclass(frozen=True, slots=True)
class _Moment:
    """What was inside, and when."""

    clock: float
    items: int
    seconds: float


class Admission:
    """All work that is inside this process, in seconds until it should be done."""

    def __init__(self, most_seconds: float) -> None:
        self._most = most_seconds
        self._seconds = 0.0
        self._items = 0

    @property
    def wait(self) -> float:
        """The seconds that a request which comes now should wait."""
        return self._seconds

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
        if self._seconds > self._most:
            raise QueueFull(
                f"{self._seconds:.1f} s of work wait already; at most {self._most:g} s may",
                self._seconds,
            )
        if asyncio.get_running_loop().time() + self._seconds > deadline:
            raise DeadlineExceeded(f"{self._seconds:.1f} s of work are to be done before")

    @contextmanager
    def enter(self, paces: Sequence[Pace], items: int, deadline: float) -> Iterator[None]:
        """Hold a place for so many items, each of which all these models answer.

        Raises:
            QueueFull: as `check` does, now that others may have entered before.
            DeadlineExceeded: likewise.
        """
        self.check(deadline)
        work = items * sum(pace.seconds for pace in paces)
        self._change(items, work)
        came = _Moment(perf_counter(), self._items, self._seconds)
        try:
            yield
        except DeadlineExceeded:
            self._teach(paces, items, came, given_up=True)
            raise
        else:
            self._teach(paces, items, came)
        finally:
            self._change(-items, -work)

    def _teach(
        self, paces: Sequence[Pace], items: int, came: _Moment, *, given_up: bool = False
    ) -> None:
        took = perf_counter() - came.clock
        inside = (came.items + self._items) / 2  # meanwhile
        expected = (came.seconds + self._seconds) / 2
        for pace in paces:
            if not pace.seconds:
                pace.seconds = took / inside / len(paces)
            elif took > expected or not given_up:  # what was given up would have taken longer
                pace.learn(took, expected, items / inside)

    def _change(self, items: int, seconds: float) -> None:
        self._items += items
        self._seconds = self._seconds + seconds if self._items else 0.0
        BACKLOG.set(self._seconds)
