"""Tensors: what a graph takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


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
