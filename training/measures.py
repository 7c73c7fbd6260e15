"""Measures of answers whose right label is known, in NumPy: how many, which, and how honest."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.model.tasks.task import Floats

Indices = NDArray[np.int64]
Counts = NDArray[np.int64]  # [right class, answered class]
BINS = 15  # of confidence, as in Guo et al. (arXiv 1706.04599)


@dataclass(frozen=True, slots=True)
class Duel:
    """How two models did on the same items: how many each got right, and how sure that is."""

    both: int
    only_first: int
    only_second: int
    neither: int
    agreement: float  # share of the items to which they said the same, right or wrong

    @property
    def items(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def accuracies(self) -> tuple[float, float]:
        rights = self.both + self.only_first, self.both + self.only_second
        return rights[0] / self.items, rights[1] / self.items

    @property
    def p_value(self) -> float:
        """McNemar's exact test: how often equals would differ by this much or more."""
        differing = self.only_first + self.only_second
        fewer = min(self.only_first, self.only_second)
        tail = sum(math.comb(differing, k) for k in range(fewer + 1))
        return float(min(1.0, 2 * tail / 2**differing))


@dataclass(frozen=True, slots=True)
class PerClass:
    """Figures of every class, float64[classes]; not a number where nothing can be said."""

    precision: NDArray[np.float64]  # of the answers that name it, how many are right
    recall: NDArray[np.float64]  # of its items, how many are found
    f1: NDArray[np.float64]  # the harmonic mean of both
    support: Indices  # int64[classes], its items


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers of about one confidence, between number / BINS and (number + 1) / BINS."""

    number: int
    items: int
    confidence: float  # their mean
    accuracy: float


def accuracy(right: Indices, given: Indices) -> float:
    """The share of int64[n] answers that are right."""
    return float((right == given).mean())


def macro_f1(right: Indices, given: Indices) -> float:
    """The mean F1 over the classes that occur, be it as a label or as an answer."""
    classes = int(max(right.max(), given.max())) + 1
    return float(np.nanmean(per_class(right, given, classes).f1))


def per_class(right: Indices, given: Indices, classes: int) -> PerClass:
    """The figures of each class, for int64[n] labels and answers."""
    counts = confusion(right, given, classes)
    hits, support, answered = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    return PerClass(
        precision=_share(hits, answered),
        recall=_share(hits, support),
        f1=_share(2 * hits, support + answered),
        support=support,
    )


def calibration_error(hits: NDArray[np.bool_], confidence: Floats) -> float:
    """The expected gap between confidence and accuracy, over equal bins of confidence.

    Args:
        hits: bool[n], whether the answer was right.
        confidence: float32[n], the probability of the answer that was given.
    """
    gaps = [b.items * abs(b.confidence - b.accuracy) for b in confidence_bins(hits, confidence)]
    return sum(gaps) / len(hits)


def confidence_bins(hits: NDArray[np.bool_], confidence: Floats) -> list[Bin]:
    """Those of the `BINS` equal bins that any answer falls into; arguments as above."""
    numbers = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        Bin(
            number=int(number),
            items=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(hits[inside].mean()),
        )
        for number in np.unique(numbers)
        for inside in [numbers == number]
    ]


def confusion(right: Indices, given: Indices, classes: int) -> Counts:
    """int64[classes, classes]: how often which class was answered for which."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (right, given), 1)
    return counts


def confusions(counts: Counts, most: int) -> list[tuple[int, int, int]]:
    """(right, answered, how often) of the commonest mistakes, the commonest first."""
    mistakes = counts - np.diag(np.diag(counts))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [(int(r), int(g), int(counts[r, g])) for r, g in pairs if mistakes[r, g]]


def _share(part: Indices, whole: Indices) -> NDArray[np.float64]:
    shares = np.full(len(whole), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares
