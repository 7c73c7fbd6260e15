"""Vector: encoders' vectors become the input of a head, a missing one as zeros."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from service.errors import Unsupported
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.specs import Frozen, Modality, Name, Positive, PreprocessingSpec, Sha256
from service.model.types import Sample
from service.runtime.tensors import Array, TensorSpec


class EncoderReference(Frozen):
    """An encoder, by the weights that its vectors come from: others mean nothing to the head."""

    name: Name
    modality: Modality
    width: Positive
    sha256: Sha256  # of the weights: the encoder's `origin.sha256`


class VectorPreprocessing(PreprocessingSpec):
    """A head: its input is made of encoders' vectors, not of a file.

    With several encoders, of one modality or of several, the vectors stand in their order, each
    followed by a 1; one that is missing is zeros, followed by a 0.
    """

    modality: Literal["vector"]
    input: str  # the graph's input: float32[N, width]
    encoders: Annotated[tuple[EncoderReference, ...], Field(min_length=1)]

    @property
    def width(self) -> int:
        flags = len(self.encoders) if len(self.encoders) > 1 else 0
        return sum(encoder.width for encoder in self.encoders) + flags

    @model_validator(mode="after")
    def _each_once(self) -> "VectorPreprocessing":
        if len({encoder.name for encoder in self.encoders}) < len(self.encoders):
            raise ValueError("encoders: one stands there twice")
        return self


class VectorPreprocessor(Preprocessor):
    """Join the encoders' vectors. A head reads no files: its encoders do."""

    modality = "vector"
    plural = "vectors"
    spec_type = VectorPreprocessing

    spec: VectorPreprocessing

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
