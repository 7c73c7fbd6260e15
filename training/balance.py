"""Rare classes are drawn more often, so that a head does not learn to pass them over."""

from collections.abc import Iterable

import torch
from torch import Tensor

from training.loop import Batches


class BalancedBatches(Batches):
    """As many items an epoch as there are, those of a class drawn by its count ** -balance.

    Drawn, not weighted in the loss: a weight of twenty on one item makes a step that no learning
    rate suits. With equal counts, every item comes exactly once an epoch, as without balance.
    """

    def __init__(
        self, vectors: Tensor, labels: Tensor, size: int, balance: float, seed: int
    ) -> None:
        """Args:
        vectors: float32[n, width].
        labels: int64[n].
        balance: 0 draws items as they come, 1 all classes alike.
        """
        super().__init__(labels, size, lambda chosen, _: vectors[chosen], seed)
        weights = torch.bincount(labels)[labels].double() ** -balance
        self._expected = weights / weights.mean()  # times an epoch

    def epoch(self) -> Iterable[tuple[Tensor, Tensor]]:
        drawn = self._sample()
        for number in range(len(self)):
            chosen = drawn[number * self._size : (number + 1) * self._size]
            yield self._draw(chosen, self._generator), self._labels[chosen]

    def _sample(self) -> Tensor:
        """int64[n]: an item expected 1.3 times comes once or twice (systematic resampling)."""
        count, random = len(self._labels), self._generator
        order = torch.randperm(count, generator=random)
        ends = self._expected[order].cumsum(dim=0)
        ticks = torch.arange(count) + torch.rand(1, dtype=torch.float64, generator=random)
        places = torch.searchsorted(ends, ticks).clamp(max=count - 1)
        return order[places][torch.randperm(count, generator=random)]
