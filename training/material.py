"""Material: labelled samples and the batches that a network learns from."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor

from training.layouts import Item

Inputs = tuple[Tensor, ...]  # of one batch, in the order of the network's arguments
Augment = Callable[[Inputs, Generator], Inputs]
POOL = 16  # batches whose samples are sorted by length together; a larger pool varies less


@dataclass(frozen=True, slots=True)
class Part:
    """The samples of one split, preprocessed as in serving."""

    labels: Tensor  # int64[n]
    take: Callable[[Tensor], Inputs] = field(repr=False)  # int64[k] places -> inputs
    lengths: Tensor | None = None  # int64[n]: tokens of texts, which are padded to the longest
    items: tuple[Item, ...] = field(default=(), repr=False)  # that the samples were made from
    take_augmented: Callable[[Tensor, Generator], Inputs] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, places: Tensor, random: Generator) -> Inputs:
        """The inputs of some samples, int64[k], augmented for training."""
        return self.take_augmented(places, random) if self.take_augmented else self.take(places)

    def augmented(self, augment: Augment) -> "Part":
        """The same part, whose training inputs are augmented."""
        return replace(
            self, take_augmented=lambda places, random: augment(self.take(places), random)
        )

    def batches(self, size: int) -> Iterator[tuple[Tensor, Inputs]]:
        """All samples in batches of (places, inputs), the shortest first."""
        everything = torch.arange(len(self))
        if self.lengths is not None:
            everything = self.lengths.argsort(stable=True)
        for places in torch.split(everything, size):
            yield places, self.take(places)


def part_of(inputs: Tensor, labels: Tensor, items: tuple[Item, ...] = ()) -> Part:
    """A part in memory: inputs float32[n, ...] of one size, labels int64[n]."""
    return Part(labels, lambda places: (inputs[places],), items=items)


def unchanged(inputs: Inputs, random: Generator) -> Inputs:  # noqa: ARG001
    return inputs


class Batches:
    """The training samples in batches, shuffled and augmented anew in each epoch."""

    def __init__(
        self,
        labels: Tensor,
        size: int,
        draw: Callable[[Tensor, Generator], Inputs],
        seed: int,
        *,
        balance: float = 0.0,
        lengths: Tensor | None = None,
    ) -> None:
        """Args:
        labels: int64[n].
        draw: places of samples, int64[k] -> augmented inputs.
        balance: 0 draws every sample once, 1 draws all classes equally often. A sample is drawn
            in proportion to the size of its class ** -balance. Weights in the loss would make
            single steps so large that no learning rate suits them.
        lengths: int64[n]; each batch then has samples of similar length.
        """
        self._labels = labels
        self._size = min(size, len(labels))
        self._draw = draw
        self._generator = torch.Generator().manual_seed(seed)
        self._lengths = lengths
        weights = torch.bincount(labels)[labels].double() ** -balance
        self._expected = weights / weights.mean() if balance else None  # times an epoch

    def __len__(self) -> int:
        """Complete batches only: a small last batch disturbs batch normalisation."""
        return len(self._labels) // self._size

    def epoch(self) -> Iterable[tuple[Inputs, Tensor]]:
        for chosen in self._order():
            yield self._draw(chosen, self._generator), self._labels[chosen]

    def state_dict(self) -> dict[str, Tensor]:
        """The state that later epochs depend on."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._generator.set_state(state["generator"])

    def _order(self) -> list[Tensor]:
        order = torch.randperm(len(self._labels), generator=self._generator)
        if self._expected is not None:
            order = self._resample(order, self._expected[order])
        if self._lengths is None:
            return list(torch.split(order, self._size))[: len(self)]
        pools = torch.split(order, POOL * self._size)
        ordered = torch.cat([pool[self._lengths[pool].argsort(stable=True)] for pool in pools])
        batches = torch.split(ordered, self._size)
        shuffled = torch.randperm(len(self), generator=self._generator)
        return [batches[number] for number in shuffled.tolist()]

    def _resample(self, order: Tensor, expected: Tensor) -> Tensor:
        """int64[n]: a sample expected 1.3 times comes once or twice (systematic resampling)."""
        count, random = len(order), self._generator
        ticks = torch.arange(count) + torch.rand(1, dtype=torch.float64, generator=random)
        places = torch.searchsorted(expected.cumsum(dim=0), ticks).clamp(max=count - 1)
        return order[places][torch.randperm(count, generator=random)]
