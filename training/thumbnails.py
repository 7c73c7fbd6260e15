"""Thumbnails: small previews of items for the report."""

import numpy as np

from service.errors import CallerError
from service.limits import InputLimits
from service.model.preprocessing.audio import AudioPreprocessing, AudioPreprocessor, LogMel
from service.model.preprocessing.image import ImagePreprocessing, ImagePreprocessor
from service.runtime.tensors import Array
from training.layouts import Item

IMAGE = ImagePreprocessing(modality="image", input="pixels", size=(128, 128))
AUDIO = AudioPreprocessing(
    modality="audio",
    input="spectrogram",
    sample_rate=16_000,
    seconds=10.0,  # more is unreadable in a tile
    log_mel=LogMel(window=512, hop=160, bands=64, high_hz=8_000.0, floor=1e-8),
)
LONGEST = 200  # letters of a text


def see(item: Item) -> Array | None:
    """The centre of an image, uint8[128, 128, 3]; None if it is unreadable."""
    preprocessor = ImagePreprocessor(IMAGE, InputLimits())
    try:
        return preprocessor.decode(item.read()).data
    except (CallerError, OSError):
        return None


def hear(item: Item) -> Array | None:
    """The log-mel spectrogram of the first ten seconds, float32[64, frames]; None if unreadable."""
    preprocessor = AudioPreprocessor(AUDIO, InputLimits())
    try:
        wave, _ = preprocessor.waveform(item.read())
    except (CallerError, OSError):
        return None
    trimmed = np.trim_zeros(wave, "b")  # the padding to ten seconds
    return preprocessor.features(trimmed if len(trimmed) else wave)


def quote(item: Item) -> str:
    """The beginning of a text, in one line."""
    try:
        text = " ".join(item.read().decode(errors="replace").split())
    except OSError:
        return "(cannot be read)"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
