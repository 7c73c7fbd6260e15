"""Disturbances: changes to an audio file that should not change the answer."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Disturbance = Callable[[Path], bytes]

STUDIO_RATE = 44_100  # Hz
QUIET = 0.1  # of the amplitude: -20 dB
PAUSE = 0.3  # seconds


def _stereo(path: Path) -> bytes:
    return _encode(np.repeat(_studio(path), 2, axis=1), STUDIO_RATE, "WAV", "PCM_16")


def _mp3(path: Path) -> bytes:
    return _encode(_studio(path), STUDIO_RATE, "MP3", "MPEG_LAYER_III")


def _quiet(path: Path) -> bytes:
    wave, rate = _read(path)
    return _encode(wave * np.float32(QUIET), rate, "WAV", "PCM_16")


def _late(path: Path) -> bytes:
    wave, rate = _read(path)
    return _encode(np.pad(wave, ((round(PAUSE * rate), 0), (0, 0))), rate, "WAV", "PCM_16")


DISTURBANCES: dict[str, Disturbance] = {
    "as 44.1 kHz stereo": _stereo,
    "as 44.1 kHz MP3": _mp3,
    "20 dB quieter": _quiet,
    "after 0.3 s of silence": _late,
}


def _read(path: Path) -> tuple[Floats, int]:
    """float32[frames, channels] and the rate in Hz."""
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return wave, rate


def _studio(path: Path) -> Floats:
    """float32[frames, 1] at 44.1 kHz."""
    wave, rate = _read(path)
    mono: Floats = soxr.resample(wave.mean(axis=1, keepdims=True), rate, STUDIO_RATE)
    return mono


def _encode(wave: Floats, rate: int, container: str, coding: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=container, subtype=coding)
    return file.getvalue()
