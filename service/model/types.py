"""Types: one item on its way through a model, before and after it is computed."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from service.runtime.tensors import Array


@dataclass(frozen=True, slots=True)
class Sample:
    """One input as its model takes it, without the batch dimension."""

    data: Array  # uint8[H, W, 3], float[...] or int64[tokens]
    cost: int = 1  # what the batch budget counts: tokens of a text, else 1
    truncated: bool = False  # the model reads less than the whole input
    key: Hashable = None  # of one key, all can share a batch: `collate` stacks or pads them
    types: Array | None = None  # a text's int64[tokens] of token types; None: all are 0


@dataclass(frozen=True, slots=True)
class TensorSample:
    """One row of a caller's own tensors, and which of the graph's outputs are wanted of it."""

    feeds: Mapping[str, Array]  # the graph's input -> its values, without the batch dimension
    outputs: tuple[str, ...]
    cost: int = 1

    @property
    def key(self) -> Hashable:
        """Nothing of it is padded, so that only rows of the same shapes and outputs can join."""
        return self.outputs, tuple((name, row.shape) for name, row in sorted(self.feeds.items()))


@dataclass(frozen=True, slots=True)
class File:
    """One input as it came; whoever computes it decodes it."""

    payload: bytes
    cost: int = 1
    key: ClassVar[None] = None


Item = Sample | File | TensorSample
Row = dict[str, Array]  # output's name -> one sample's values


@dataclass(frozen=True, slots=True)
class Computed:
    """What came of one item, and for how long it was decoded (seconds)."""

    row: Row
    truncated: bool = False  # the model reads less than the whole input
    decode_seconds: float = 0.0
