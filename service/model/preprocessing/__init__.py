"""Bytes of a file become arrays for a graph: the same code for training and for serving."""

from pathlib import Path

from service.limits import InputLimits
from service.model.manifest import (
    ImagePreprocessing,
    Preprocessing,
    TextPreprocessing,
    VectorPreprocessing,
)
from service.model.preprocessing.audio import AudioPreprocessor
from service.model.preprocessing.image import ImagePreprocessor
from service.model.preprocessing.preprocessor import Preprocessor, stack_tensors
from service.model.preprocessing.text import TextPreprocessor
from service.model.preprocessing.vector import VectorPreprocessor

__all__ = [
    "AudioPreprocessor",
    "ImagePreprocessor",
    "Preprocessor",
    "TextPreprocessor",
    "VectorPreprocessor",
    "build_preprocessor",
    "stack_tensors",
]


def build_preprocessor(spec: Preprocessing, folder: Path, limits: InputLimits) -> Preprocessor:
    """The preprocessor that a manifest describes; `folder` holds the files that it names.

    Raises:
        BadModel: a file that it names cannot be used.
    """
    if isinstance(spec, ImagePreprocessing):
        return ImagePreprocessor(spec, limits)
    if isinstance(spec, TextPreprocessing):
        return TextPreprocessor(spec, folder, limits)
    if isinstance(spec, VectorPreprocessing):
        return VectorPreprocessor(spec)
    return AudioPreprocessor(spec, limits)
