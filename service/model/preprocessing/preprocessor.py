"""What every modality's preprocessing has in common: samples are made, and make a batch."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from service.model.types import Sample, TensorSample
from service.runtime.tensors import Array, TensorSpec


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
