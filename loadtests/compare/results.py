"""Results: every number of a run, and what may be said of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from loadtests.compare.outcome import Outcome

Loop = Literal["closed", "open", "ceiling"]
CEILING = "ceiling"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One window of one server."""

    round: int
    server: str
    work: str
    loop: Loop
    level: float  # connections, the ceiling's those that it stands for; open: callers a second
    batch: int  # of the ceiling; else 0
    outcome: Outcome
    server_cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Start:
    """One start of one server, and the memory of all its processes."""

    round: int
    server: str
    ready_seconds: float  # until it had answered once with each model
    ready_bytes: int
    loaded_bytes: int  # after the closed loop


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds say of one quantity."""

    median: float
    least: float
    most: float


@dataclass
class Results:
    """A run: what it was run with and on, and all that it measured."""

    date: str
    machine: dict[str, Any]
    options: dict[str, Any]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # server -> why
    starts: list[Start] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)

    def windows(
        self, server: str, work: str, loop: Loop, level: float | None = None
    ) -> list[Measurement]:
        return [
            m
            for m in self.measurements
            if (m.server, m.work, m.loop) == (server, work, loop) and level in (None, m.level)
        ]

    def servers(self) -> list[str]:
        """Those that were measured, in the order of the first round."""
        return list(dict.fromkeys(start.server for start in self.starts))

    def works(self) -> list[str]:
        return list(dict.fromkeys(m.work for m in self.measurements))

    def levels(self, work: str) -> list[float]:
        return sorted({m.level for m in self.measurements if m.work == work and m.loop == "closed"})

    def ceilings(self, work: str, level: float) -> dict[int, float]:
        """Round -> answers a second of the best in-process loops for so many connections."""
        return _best_rates(self.windows(CEILING, work, "ceiling", level))

    def capacities(self, server: str, work: str) -> dict[int, float]:
        """Round -> the most answers a second that a server gave in the closed loop."""
        return _best_rates(self.windows(server, work, "closed"))


def rates(windows: Iterable[Measurement]) -> dict[int, float]:
    """Round -> answers a second."""
    return {window.round: window.outcome.rate for window in windows}


def _best_rates(windows: Iterable[Measurement]) -> dict[int, float]:
    best: dict[int, float] = {}
    for window in windows:
        best[window.round] = max(best.get(window.round, 0.0), window.outcome.rate)
    return best


def spread(values: Iterable[float]) -> Spread | None:
    """None of nothing."""
    found = list(values)
    return Spread(median(found), min(found), max(found)) if found else None


def ratios(values: Mapping[int, float], others: Mapping[int, float]) -> Spread | None:
    """Round by round, for what slows a round down slows both."""
    return spread(value / others[number] for number, value in values.items() if others.get(number))


def best_other(results: Results, work: str, level: float, ours: str) -> list[Measurement]:
    """The windows of the one with the highest median of answers a second; [] where there is none.

    Args:
        ours: how the names begin that are not another's.
    """
    others = [name for name in results.servers() if not name.startswith(ours)]
    windows = [results.windows(name, work, "closed", level) for name in others]
    return max(filter(None, windows), key=lambda w: median(rates(w).values()), default=[])
