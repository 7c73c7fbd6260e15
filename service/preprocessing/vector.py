"""Vector: encoders' vectors become the input of a head, a missing one as zeros."""

from collections.abc import Mapping, Sequence

import numpy as np

from service.errors import Unsupported
from service.manifest import Modality, VectorPreprocessing
from service.preprocessing.sample import Array, Sample, TensorSpec, stack


class VectorPreprocessor:
    """Join what the encoders gave. A head reads no files: its encoders do."""

    quick_bytes = 0

    def __init__(self, spec: VectorPreprocessing) -> None:
        self.spec = spec

    def inputs(self) -> dict[str, TensorSpec]:
        return {self.spec.input: TensorSpec("float32", (None, self.spec.width))}

    def decode(self, payload: bytes) -> Sample:  # noqa: ARG002
        raise Unsupported("a head takes its encoders' vectors, not files")

    def join(self, vectors: Mapping[Modality, Array]) -> Sample:
        """One sample, float32[width], of the vectors that there are."""
        encoders = self.spec.encoders
        if len(encoders) == 1:
            return Sample(vectors[encoders[0].modality].astype(np.float32))
        parts = []
        for encoder in encoders:
            there = encoder.modality in vectors
            vector = vectors[encoder.modality] if there else np.zeros(encoder.width)
            parts += [vector, [float(there)]]
        return Sample(np.concatenate(parts).astype(np.float32))

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        return stack(self.spec.input, samples)
