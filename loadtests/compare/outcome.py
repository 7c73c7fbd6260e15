"""Outcome: what a client saw of one server in one window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True, slots=True)
class Outcome:
    """Times are in seconds."""

    answers: int
    errors: int  # refused, broken off, or not there when the caller left
    seconds: float
    p50: float
    p95: float
    p99: float
    client_cpu_seconds: float
    in_time: int | None = None  # answers within a second, where callers came uninvited

    @property
    def rate(self) -> float:
        return self.answers / self.seconds


class Percentiles(TypedDict):
    """Those of the times of answers, as `Outcome` names them."""

    p50: float
    p95: float
    p99: float


def percentiles(times: Sequence[float]) -> Percentiles:
    return Percentiles(
        p50=percentile(times, 50), p95=percentile(times, 95), p99=percentile(times, 99)
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent do not exceed; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
