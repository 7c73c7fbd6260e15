"""Thresholds: what a run must keep to; otherwise its exit code is 1."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The defaults ask for one thing only: a sound answer to each request."""

    p95_ms: float = math.inf
    p99_ms: float = math.inf
    error_share: float = 0.0
    answers_a_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of a run. The times are of sound answers only: a refusal is quick."""

    answers: int
    failures: int
    seconds: float
    p95_ms: float
    p99_ms: float


def breaches(summary: Summary, thresholds: Thresholds) -> list[str]:
    """A sentence for each threshold that was not kept."""
    if not summary.answers:
        return ["there was no sound answer"]
    share = summary.failures / (summary.answers + summary.failures)
    rate = summary.answers / summary.seconds
    most = [
        ("p95 in ms", summary.p95_ms, thresholds.p95_ms),
        ("p99 in ms", summary.p99_ms, thresholds.p99_ms),
        ("the share of errors", share, thresholds.error_share),
    ]
    found = [
        f"{name} is {value:.4g}, above {limit:g}" for name, value, limit in most if value > limit
    ]
    if rate < thresholds.answers_a_second:
        found.append(f"answers a second are {rate:.4g}, below {thresholds.answers_a_second:g}")
    return found
