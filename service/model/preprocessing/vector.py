"""Vector: encoders' vectors become the input of a head, a missing one as zeros."""

from collections.abc import Sequence

import numpy as np

from service.errors import Unsupported
from service.model.manifest import VectorPreprocessing
from service.model.preprocessing.preprocessor import stack
from service.model.types import Sample
from service.runtime.tensors import Array, TensorSpec


class VectorPreprocessor:
    """Join what the encoders gave. A head reads no files: its encoders do."""

    quick_bytes = 0

    def __init__(self, spec: VectorPreprocessing) -> None:
        self.spec = spec

    def inputs(self) -> dict[str, TensorSpec]:
        return {self.spec.input: TensorSpec("float32", (None, self.spec.width))}

    def decode(self, payload: bytes) -> Sample:  # noqa: ARG002
        raise Unsupported("a head takes its encoders' vectors, not files")

    def join(self, vectors: Sequence[Array | None]) -> Sample:
        """One sample, float32[width].

        Args:
            vectors: each encoder's, in their order; None where there was nothing for it to read.
        """
        if len(vectors) == 1:
            return Sample(np.asarray(vectors[0], np.float32))
        parts: list[Array] = []
        for encoder, vector in zip(self.spec.encoders, vectors, strict=True):
            parts += [np.zeros(encoder.width + 1)] if vector is None else [vector, np.ones(1)]
        return Sample(np.concatenate(parts).astype(np.float32))

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        return stack(self.spec.input, samples)
