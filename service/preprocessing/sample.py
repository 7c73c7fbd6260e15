"""What every modality's preprocessing has in common: a sample, and how samples make a batch."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


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


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a graph's input must be; None stands for a dimension that changes."""

    dtype: str
    shape: tuple[int | None, ...]

    def fits(self, shape: Sequence[int | None]) -> bool:
        """Whether a tensor of that shape can be this one, None being any size."""
        if len(shape) != len(self.shape):
            return False
        pairs = zip(shape, self.shape, strict=True)
        return all(a is None or b is None or a == b for a, b in pairs)


class Preprocessor(Protocol):
    """One modality's way from bytes to arrays. Thread-safe."""

    quick_bytes: int  # a file of so many bytes is decoded before a thread would have begun

    def inputs(self) -> Mapping[str, TensorSpec]:
        """The inputs that the graph must have, by name."""

    def decode(self, payload: bytes) -> Sample:
        """One file as a sample.

        Raises:
            Unreadable: the bytes are not a file of this modality.
            TooLarge: the file is beyond the limits.
        """

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        """Samples as the feeds of one batch: arrays with a leading batch dimension."""


def stack(name: str, samples: Sequence[Sample]) -> dict[str, Array]:
    """Samples of one shape as one feed: [N, *shape]."""
    return {name: np.stack([sample.data for sample in samples])}


def stack_tensors(samples: Sequence[TensorSample]) -> dict[str, Array]:
    """Rows of one key as the feeds of one batch: each [N, *shape]."""
    return {name: np.stack([sample.feeds[name] for sample in samples]) for name in samples[0].feeds}
