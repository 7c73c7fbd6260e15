"""Figures: what was measured of a fault, and whether it is within its limits."""

from collections.abc import Iterable
from dataclasses import dataclass

from loadtests.compare.report import table


@dataclass(frozen=True, slots=True)
class Figure:
    """One number; without a limit it is there to be read."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        return (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )

    @property
    def limit(self) -> str:
        bounds = [("at least", self.least), ("at most", self.most)]
        return ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


@dataclass(frozen=True, slots=True)
class Finding:
    """All figures of one fault with so many workers."""

    fault: str
    workers: int
    figures: tuple[Figure, ...]

    @property
    def holds(self) -> bool:
        return all(figure.holds for figure in self.figures)


def show(findings: Iterable[Finding]) -> str:
    """A table of Markdown."""
    head = ["fault", "workers", "figure", "value", "limit", ""]
    rows = [
        [
            finding.fault,
            str(finding.workers),
            figure.what,
            f"{figure.value:.4g}",
            figure.limit,
            "" if figure.holds else "FAILS",
        ]
        for finding in findings
        for figure in finding.figures
    ]
    return table(head, rows)
