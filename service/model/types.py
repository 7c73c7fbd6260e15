"""Types: an item on its way through a model, and the result that comes of it."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from service.runtime.tensors import Array


@dataclass(frozen=True, slots=True)
class Sample:
    """One input as its model takes it, without the batch dimension."""

    data: Array  # uint8[H, W, 3], float[...] or int64[tokens]
    cost: int = 1  # what the batch budget counts: tokens of a text, else 1
    truncated: bool = False  # the model reads less than the whole input
    key: Hashable = None  # samples with equal keys can share a batch: `collate` stacks or pads them
    types: Array | None = None  # a text's int64[tokens] of token types; None: all are 0


@dataclass(frozen=True, slots=True)
class TensorSample:
    """One row of a client's own tensors, and the outputs of the graph that the client wants."""

    feeds: Mapping[str, Array]  # the graph's input -> its values, without the batch dimension
    outputs: tuple[str, ...]
    cost: int = 1

    @property
    def key(self) -> Hashable:
        """Nothing is padded: only rows of the same shapes and outputs share a batch."""
        return self.outputs, tuple((name, row.shape) for name, row in sorted(self.feeds.items()))


@dataclass(frozen=True, slots=True)
class File:
    """One input as it came; the lane decodes it."""

    payload: bytes
    cost: int = 1
    key: ClassVar[None] = None


Item = Sample | File | TensorSample
Row = dict[str, Array]  # output's name -> one sample's values


@dataclass(slots=True)
class Timings:
    """Where one item's time went, in seconds; each stage fills its own field in."""

    decode: float = 0.0
    queue: float = 0.0
    infer: float = 0.0
    interpret: float = 0.0


@dataclass(slots=True)
class Result:
    """What came of one item: the lane makes it, and it travels on to the response."""

    row: Row
    truncated: bool = False  # the model reads less than the whole input
    cost: int = 1  # tokens of a text, else 1
    timings: Timings = field(default_factory=Timings)
    answer: Any = None  # what the task reads in the row
