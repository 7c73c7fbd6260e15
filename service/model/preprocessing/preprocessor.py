"""Preprocessor: a file becomes a sample, samples become a batch.

`preprocessing/__init__.py` says how to add a modality.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from service.errors import Unsupported
from service.limits import DEFAULT_LIMITS, InputLimits
from service.model.specs import Modality, PreprocessingSpec
from service.model.types import Sample, TensorSample
from service.runtime.tensors import Array, TensorSpec

MODALITIES: "dict[Modality, type[Preprocessor]]" = {}  # by name


class Preprocessor(ABC):
    """One modality's way from bytes to arrays, for one model. Thread-safe."""

    modality: ClassVar[Modality]  # in paths, manifests and forms: /v1/image/classify
    plural: ClassVar[str]  # of its files, in summaries of routes
    spec_type: ClassVar[type[PreprocessingSpec]]
    media_types: ClassVar[tuple[str, ...]] = ()  # of its files, for the OpenAPI document
    is_text: ClassVar[bool] = False  # a file is a string of UTF-8: JSON and forms hold it as it is
    quick_bytes: ClassVar[int] = 0  # up to this size, decoding is faster than starting a thread
    decodes_before_queue: ClassVar[bool] = False  # batches depend on the cost of the decoded sample

    def __init_subclass__(cls) -> None:
        if cls.media_types:  # a head's vectors are no files
            MODALITIES[cls.modality] = cls

    def __init__(
        self,
        spec: Any,
        limits: InputLimits = DEFAULT_LIMITS,
        folder: Path = Path(),  # noqa: ARG002
    ) -> None:
        """Args:
            spec: of `spec_type`.
            folder: holds the files that the spec names.

        Raises:
            BadModel: one of them cannot be used.
        """
        self.spec = spec
        self._limits = limits

    @abstractmethod
    def inputs(self) -> Mapping[str, TensorSpec]:
        """The inputs that the graph must have, by name."""

    @abstractmethod
    def decode(self, payload: bytes) -> Sample:
        """One file as a sample.

        Raises:
            Unreadable: the bytes are not a file of this modality.
            TooLarge: the file is beyond the limits.
        """

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        """Samples as the feeds of one batch: arrays with a leading batch dimension."""
        return {self.spec.input: np.stack([sample.data for sample in samples])}

    def preview(self, payload: bytes) -> bytes | dict[str, Any]:
        """What the model sees of a file: a PNG file, or a JSON object.

        Raises:
            CallerError: as `decode`.
        """
        raise Unsupported(f"there is no preview of {self.plural}: {len(payload)} bytes are unused")

    def neighbours(self, example: Sample, payload: bytes) -> list[Sample]:  # noqa: ARG002
        """Items that may share the example's batch: its values shuffled, and zeros.

        Other values might be ones that the graph was never made for.
        """
        data = example.data
        shuffled = np.random.default_rng(0).permutation(data.ravel()).reshape(data.shape)
        other = data + data.dtype.type(1) if np.array_equal(shuffled, data) else shuffled
        return [Sample(other), Sample(np.zeros_like(data))]

    def longest(self, payload: bytes) -> Sample | None:  # noqa: ARG002
        """The longest sample that the model reads, made of a file; None where all are as long."""
        return None

    def cost_of(self, tensors: Mapping[str, Array]) -> int:  # noqa: ARG002
        """The cost of each row of a client's own tensors, each [N, ...].

        Raises:
            BadRequest, TooLarge: no sample has such a shape.
        """
        return 1


def stack_tensors(samples: Sequence[TensorSample]) -> dict[str, Array]:
    """Rows of one key as the feeds of one batch: each [N, *shape]."""
    return {name: np.stack([sample.feeds[name] for sample in samples]) for name in samples[0].feeds}
