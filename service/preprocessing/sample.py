"""What every modality's preprocessing has in common: a sample, and how samples make a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """One input as its model takes it, without the batch dimension."""

    data: Array  # uint8[H, W, 3], float[...] or int64[tokens]
    cost: int = 1  # what the batch budget counts: tokens of a text, else 1
    truncated: bool = False  # the model reads less than the whole input


@dataclass(frozen=True, slots=True)
class File:
    """One input as it came; whoever computes it decodes it."""

    payload: bytes
    cost: int = 1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a graph's input must be; None stands for a dimension that changes."""

    dtype: str
    shape: tuple[int | None, ...]


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
        """Samples as the feeds of one run: arrays with a leading batch dimension."""


def stack(name: str, samples: Sequence[Sample]) -> dict[str, Array]:
    """Samples of one shape as one feed: [N, *shape]."""
    return {name: np.stack([sample.data for sample in samples])}
