"""Selection: which settings give the most answers in time, as far as the noise lets one say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from loadtests.compare.outcome import Outcome
from loadtests.compare.results import ratios
from loadtests.tune.candidates import DEFAULTS, Candidate, combine

WORTH = 1.05  # what a change has to bring, even if it brings it every time
FINALISTS = 2  # single changes that are measured again


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen in one window."""

    outcome: Outcome
    server_bytes: int  # memory of all the service's processes


@dataclass(frozen=True, slots=True)
class Point:
    """One candidate, asked by so many callers at once."""

    candidate: Candidate
    callers: int
    windows: Mapping[int, Window]  # round -> what was seen

    @property
    def rates(self) -> dict[int, float]:
        return {number: window.outcome.rate for number, window in self.windows.items()}

    @property
    def rate(self) -> float:
        return median(self.rates.values())

    @property
    def p99(self) -> float:
        """Seconds."""
        return median(window.outcome.p99 for window in self.windows.values())

    @property
    def errors(self) -> int:
        return sum(window.outcome.errors for window in self.windows.values())

    def meets(self, p99: float) -> bool:
        return self.rate > 0 and self.p99 <= p99 and not self.errors


def fastest(points: Sequence[Point], candidate: Candidate, p99: float) -> Point | None:
    """Where this candidate answers most within p99 seconds; None: nowhere."""
    found = [point for point in points if point.candidate == candidate and point.meets(p99)]
    return max(found, key=lambda point: point.rate, default=None)


def beats(point: Point, other: Point) -> bool:
    """In every round, which a slow machine slows for both, and by more than is worth a setting."""
    gain = ratios(point.rates, other.rates)
    return gain is not None and gain.least > 1 and gain.median > WORTH


def choose(points: Sequence[Point], p99: float) -> Point | None:
    """The most answers within p99 seconds; of what is as good within noise, the fewest changes.

    So the defaults stay where nothing beats them. None: nothing meets that p99.
    """
    meeting = [point for point in points if point.meets(p99)]
    if not meeting:
        return None
    best = max(meeting, key=lambda point: point.rate)
    as_good = [point for point in meeting if not beats(best, point)]
    return min(as_good, key=lambda point: (len(point.candidate.changes), -point.rate))


def finalists(points: Sequence[Point], p99: float) -> list[Candidate]:
    """The defaults, the best single changes, and all changes together that beat the defaults.

    Empty where nothing meets that p99.
    """
    candidates = dict.fromkeys(point.candidate for point in points)
    found = [point for candidate in candidates if (point := fastest(points, candidate, p99))]
    found.sort(key=lambda point: -point.rate)
    if not found:
        return []
    usual = fastest(points, DEFAULTS, p99)
    better = [point.candidate for point in found if usual is None or beats(point, usual)]
    singles = [point.candidate for point in found if point.candidate != DEFAULTS]
    return list(dict.fromkeys([DEFAULTS, *singles[:FINALISTS], combine(better)]))
