"""Preprocessing: bytes of a file become arrays, by the same code in training and in serving."""

from pathlib import Path

from service.limits import InputLimits
from service.model.preprocessing.audio import AudioPreprocessor
from service.model.preprocessing.image import ImagePreprocessor
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.preprocessing.text import TextPreprocessor
from service.model.preprocessing.vector import VectorPreprocessor
from service.model.specs import PreprocessingSpec

# Routes, forms and documents are made from this registry.
MODALITIES: dict[str, type[Preprocessor]] = {
    preprocessor.modality: preprocessor
    for preprocessor in (
        ImagePreprocessor,
        TextPreprocessor,
        AudioPreprocessor,
    )
}


def build_preprocessor(spec: PreprocessingSpec, folder: Path, limits: InputLimits) -> Preprocessor:
    """The preprocessor that a manifest describes.

    Args:
        folder: holds the files that the spec names.

    Raises:
        BadModel: one of them cannot be used.
    """
    return MODALITIES.get(spec.modality, VectorPreprocessor)(spec, limits, folder)
