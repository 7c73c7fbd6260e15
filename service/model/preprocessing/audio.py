"""Audio preprocessing: an audio file becomes mono samples at the model's rate, or a spectrogram."""

import io
import math
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import soxr
from numpy.typing import NDArray
from pydantic import Field, model_validator

from service.model.formats import audio_file
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.specs import Frozen, Positive, PreprocessingSpec
from service.model.types import Sample
from service.runtime.tensors import TensorSpec

Floats = NDArray[np.float32]


class LogMel(Frozen):
    """(ln(mel power + floor) - mean) / std, of Hann windows, on Slaney's mel scale."""

    window: Positive  # samples of one frame, also the FFT's length
    hop: Positive  # samples from one frame to the next
    bands: Positive
    low_hz: Annotated[float, Field(ge=0)] = 0.0
    high_hz: Annotated[float, Field(gt=0)]
    floor: Annotated[float, Field(gt=0)] = 1e-6
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0


class AudioPreprocessing(PreprocessingSpec):
    """Parameters for audio: mono, one rate and length, and a spectrogram if `log_mel` is given."""

    modality: Literal["audio"]
    input: str  # the graph's input: float32[N, ...]
    sample_rate: Positive  # Hz
    seconds: Annotated[float, Field(gt=0)]  # longer is cut, shorter is padded with silence
    keep: Literal["start", "centre"] = "start"  # which part of longer audio
    log_mel: LogMel | None = None  # None: the graph takes the waveform

    @property
    def samples(self) -> int:
        return round(self.sample_rate * self.seconds)

    @model_validator(mode="after")
    def _frequencies_exist(self) -> "AudioPreprocessing":
        mel = self.log_mel
        if mel and not mel.low_hz < mel.high_hz <= self.sample_rate / 2:
            raise ValueError("log_mel needs low_hz < high_hz <= half the sample rate")
        return self


class AudioPreprocessor(Preprocessor):
    """Decode, mix to mono, resample, cut or pad; compute a spectrogram if the model needs one."""

    modality = "audio"
    plural = "audio files"
    spec_type = AudioPreprocessing
    media_types = ("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "audio/aiff")

    spec: AudioPreprocessing

    @cached_property
    def _log_mel(self) -> "LogMelSpectrogram | None":
        mel = self.spec.log_mel
        return LogMelSpectrogram(mel, self.spec.sample_rate) if mel else None

    def inputs(self) -> dict[str, TensorSpec]:
        shape: tuple[int | None, ...] = (None, self.spec.samples)
        if mel := self.spec.log_mel:
            shape = (None, mel.bands, self.spec.samples // mel.hop + 1)
        return {self.spec.input: TensorSpec("float32", shape)}

    def decode(self, payload: bytes) -> Sample:
        """One audio file as float32[samples] or float32[bands, frames]."""
        wave, truncated = self.waveform(payload)
        return Sample(self.features(wave), truncated=truncated)

    def preview(self, payload: bytes) -> bytes:
        """Waveform and, where the model takes one, log-mel spectrogram, with axes, as PNG."""
        wave, _ = self.waveform(payload)
        return draw_audio(wave, self.features(wave), self.spec)

    def features(self, wave: Floats) -> Floats:
        """float32[samples] at the model's rate -> the graph's input."""
        return self._log_mel(wave) if self._log_mel else wave

    def waveform(self, payload: bytes) -> tuple[Floats, bool]:
        """float32[samples] in -1..1 at the model's rate and length, and whether it was cut."""
        spec = self.spec
        excerpt = audio_file.read(
            payload, spec.seconds, spec.keep == "centre", self._limits.seconds
        )
        wave = soxr.resample(excerpt.wave, excerpt.rate, spec.sample_rate)
        return fit_length(wave.clip(-1, 1), spec.samples), not excerpt.whole


def fit_length(wave: Floats, samples: int) -> Floats:
    """Cut float32[any] to float32[samples], or pad it with silence at the end."""
    return np.pad(wave[:samples], (0, max(0, samples - len(wave))))


class LogMelSpectrogram:
    """The energy of audio by frequency and time: float32[bands, frames].

    Frames are centred on multiples of `hop`, with mirrored ends, so there are samples // hop + 1.
    """

    def __init__(self, spec: LogMel, sample_rate: int) -> None:
        self._spec = spec
        self._window = np.hanning(spec.window + 1)[:-1].astype(np.float32)  # periodic
        self._bins = math.floor(spec.high_hz * spec.window / sample_rate) + 1  # used by a filter
        self._filters = np.ascontiguousarray(mel_filters(spec, sample_rate)[:, : self._bins])

    def __call__(self, wave: Floats) -> Floats:
        spec = self._spec
        half = spec.window // 2
        padded = np.pad(wave, (half, spec.window - half), mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, spec.window)[:: spec.hop]
        frames = frames[: len(wave) // spec.hop + 1] * self._window  # [frames, window]
        spectrum = np.fft.rfft(frames, axis=1)[:, : self._bins]
        power = np.abs(spectrum) ** 2  # float32[frames, bins]
        mel = self._filters @ power.T  # [bands, frames]
        features: Floats = ((np.log(mel + spec.floor) - spec.mean) / spec.std).astype(np.float32)
        return features


def mel_filters(spec: LogMel, sample_rate: int) -> Floats:
    """Triangles of equal area, evenly spaced on Slaney's mel scale: float32[bands, bins].

    Source: M. Slaney, Auditory Toolbox (1998): linear below 1 kHz, logarithmic above.
    """
    bins = np.fft.rfftfreq(spec.window, 1 / sample_rate)
    lowest, highest = _hz_to_mel(spec.low_hz), _hz_to_mel(spec.high_hz)
    edges = _mel_to_hz(np.linspace(lowest, highest, spec.bands + 2))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - low) / (centre - low)
    falling = (high - bins) / (high - centre)
    triangles = np.maximum(0, np.minimum(rising, falling))
    return (triangles * 2 / (high - low)).astype(np.float32)


LINEAR_HZ_PER_MEL = 200 / 3
LOG_START_HZ = 1000.0
LOG_START_MEL = LOG_START_HZ / LINEAR_HZ_PER_MEL
LOG_STEP = math.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    if hz < LOG_START_HZ:
        return hz / LINEAR_HZ_PER_MEL
    return LOG_START_MEL + math.log(hz / LOG_START_HZ) / LOG_STEP


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = mel * LINEAR_HZ_PER_MEL
    logarithmic = LOG_START_HZ * np.exp(LOG_STEP * (mel - LOG_START_MEL))
    return np.where(mel < LOG_START_MEL, linear, logarithmic)


def draw_audio(wave: Floats, features: Floats, spec: AudioPreprocessing) -> bytes:
    """Waveform and, where the model takes one, log-mel spectrogram over seconds: a PNG file."""
    from matplotlib.figure import Figure  # takes a quarter of a second, so not at every start

    seconds = len(wave) / spec.sample_rate
    figure = Figure(figsize=(8, 6 if spec.log_mel else 3), layout="constrained")
    if spec.log_mel:
        above, below = figure.subplots(2, 1, sharex=True)
        mesh = below.imshow(
            features, origin="lower", aspect="auto", extent=(0, seconds, 0, len(features))
        )
        below.set(
            xlabel="time in s",
            ylabel=f"mel band, {spec.log_mel.low_hz:.0f} to {spec.log_mel.high_hz:.0f} Hz",
        )
        figure.colorbar(mesh, ax=below, label="log energy, as the model takes it")
    else:
        above = figure.subplots()
        above.set_xlabel("time in s")
    above.plot(np.arange(len(wave)) / spec.sample_rate, wave, linewidth=0.6)
    above.set(ylabel="amplitude", ylim=(-1, 1), title=f"{spec.sample_rate} Hz, mono")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
