"""Measures of answers whose right label is known, in NumPy: how many, which, and how honest."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.meaning import Floats

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


def accuracy(right: Indices, given: Indices) -> float:
    """The share of int64[n] answers that are right."""
    return float((right == given).mean())


def macro_f1(right: Indices, given: Indices) -> float:
    """The mean F1 over the classes that occur, be it as a label or as an answer."""
    values = []
    for name in np.unique(np.concatenate([right, given])):
        labelled, answered = right == name, given == name
        values.append(2 * (labelled & answered).sum() / (labelled.sum() + answered.sum()))
    return float(np.mean(values))


def calibration_error(hits: NDArray[np.bool_], confidence: Floats) -> float:
    """The expected gap between confidence and accuracy, over equal bins of confidence.

    Args:
        hits: bool[n], whether the answer was right.
        confidence: float32[n], the probability of the answer that was given.
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    insides = [bins == number for number in np.unique(bins)]
    gaps = [i.mean() * abs(confidence[i].mean() - hits[i].mean()) for i in insides]
    return float(np.sum(gaps))


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
