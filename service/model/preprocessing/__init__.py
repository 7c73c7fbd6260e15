"""Preprocessing: bytes of a file become arrays, by the same code in training and in serving.

Routes, forms and documents are made from `MODALITIES`. Each import adds the module's modality: a
new one costs its file and a line here.
"""

# ruff: noqa: F401
from pathlib import Path

from service.limits import InputLimits
from service.model.preprocessing import audio, image, text
from service.model.preprocessing.preprocessor import MODALITIES as MODALITIES
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.preprocessing.vector import VectorPreprocessor
from service.model.specs import PreprocessingSpec


def build_preprocessor(spec: PreprocessingSpec, folder: Path, limits: InputLimits) -> Preprocessor:
    """The preprocessor that a manifest describes.

    Args:
        folder: holds the files that the spec names.

    Raises:
        BadModel: one of them cannot be used.
    """
    return MODALITIES.get(spec.modality, VectorPreprocessor)(spec, limits, folder)
