"""Speed: how long the runs of a model take, measured when it is loaded."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

REPEATS, SECONDS = 5, 0.1  # runs of each size; no more are begun after so long
MAX_PADDING = 256.0  # the example is one text: how long ones compare with it is not measured


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds that a run takes at all, for each unit of cost, and for an item like the example."""

    run: float = 0.0
    unit: float = 0.0
    item: float = 0.0  # its share of a batch

    def seconds(self, cost: int) -> float:
        """Expected for a batch of this cost."""
        return self.run + self.unit * cost

    @property
    def padding(self) -> float:
        """The padding that costs as much as a run of its own."""
        return min(MAX_PADDING, self.run / self.unit) if self.unit else MAX_PADDING


UNMEASURED = Speed()


def measure(compute: Callable[[int], object], cost: int, largest: int) -> Speed:
    """Time a warm model.

    Two sizes of batch tell a run's fixed part from that of its items. A model that is slow computes
    one item only, as the lanes do of it.

    Args:
        compute: computes a batch of so many items.
        cost: of one item.
        largest: the items of the largest batch.
    """
    one = _fastest(compute, 1)
    items = largest if one * largest <= SECONDS else int(SECONDS / one)
    if items < 2:
        return Speed(0.0, one / cost, one)
    many = _fastest(compute, items)
    unit = max(0.0, many - one) / ((items - 1) * cost)
    return Speed(max(0.0, one - unit * cost), unit, many / items)


def _fastest(compute: Callable[[int], object], items: int) -> float:
    """The least seconds of several runs: others may load at the same time."""
    least, begun = math.inf, perf_counter()
    for _ in range(REPEATS):
        started = perf_counter()
        compute(items)
        least = min(least, perf_counter() - started)
        if perf_counter() - begun > SECONDS:
            break
    return least
