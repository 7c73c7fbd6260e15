"""Plots: the course of one run as a picture.

locust --config loadtests/locust.conf --shape spike --csv .cache/load/spike --csv-full-history
python -m loadtests.plots .cache/load/spike_stats_history.csv spike.png
"""

import csv
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

INCHES = (6.4, 5.2)
DPI = 100


@dataclass(frozen=True, slots=True)
class Moment:
    """What Locust wrote down in one second: means and percentiles of the last ten."""

    second: int
    callers: int  # who have not been answered yet, where callers come by themselves
    requests_a_second: float
    failures_a_second: float
    p50_ms: float
    p95_ms: float


def read_history(lines: Iterable[str]) -> list[Moment]:
    """All requests together, from the first answer on."""
    rows = [
        row
        for row in csv.DictReader(lines)
        if row["Name"] == "Aggregated" and row["50%"] not in ("N/A", "0")
    ]
    return [
        Moment(
            second=int(row["Timestamp"]) - int(rows[0]["Timestamp"]),
            callers=int(row["User Count"]),
            requests_a_second=float(row["Requests/s"]),
            failures_a_second=float(row["Failures/s"]),
            p50_ms=float(row["50%"]),
            p95_ms=float(row["95%"]),
        )
        for row in rows
    ]


def draw(moments: list[Moment]) -> Figure:
    figure = Figure(INCHES, dpi=DPI, layout="constrained")
    rates, crowd, times = figure.subplots(3, sharex=True)
    seconds = [moment.second for moment in moments]
    rates.plot(seconds, [moment.requests_a_second for moment in moments], label="requests")
    rates.plot(seconds, [moment.failures_a_second for moment in moments], label="failures")
    rates.set_ylabel("a second")
    crowd.plot(seconds, [moment.callers for moment in moments])
    crowd.set_ylabel("callers waiting")
    times.plot(seconds, [moment.p95_ms for moment in moments], label="p95")
    times.plot(seconds, [moment.p50_ms for moment in moments], label="p50")
    times.set_ylabel("milliseconds")
    times.set_xlabel("seconds")
    for axes in (rates, crowd, times):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    for axes in (rates, times):
        axes.legend(loc="upper left")
    return figure


if __name__ == "__main__":
    history, picture = map(Path, sys.argv[1:])
    with history.open(newline="") as lines:
        draw(read_history(lines)).savefig(picture)
