"""Recordings of every kind become the same sound, and sounds become spectrograms."""

import struct
from typing import Any

import numpy as np
import pytest
import soundfile

from service.errors import TooLarge, Unreadable
from service.limits import InputLimits
from service.model.formats.audio_file import MAX_CHANNELS
from service.model.preprocessing.audio import (
    AudioPreprocessing,
    AudioPreprocessor,
    LogMel,
    LogMelSpectrogram,
    mel_filters,
)
from tests.conftest import wav

RATE = 16_000


def preprocessor(limits: InputLimits | None = None, **spec: Any) -> AudioPreprocessor:
    spec = {"modality": "audio", "input": "wave", "sample_rate": RATE, "seconds": 1, **spec}
    return AudioPreprocessor(AudioPreprocessing(**spec), limits or InputLimits())


def sine(rate: int = RATE, seconds: float = 1.0, hertz: float = 440.0) -> Any:
    time = np.arange(round(rate * seconds)) / rate
    return 0.5 * np.sin(2 * np.pi * hertz * time)


EXPECTED = sine()
INNER = slice(800, -800)  # resamplers and codecs may ring at the ends


@pytest.mark.parametrize(
    ("form", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1e-2),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("WAV", "DOUBLE", 1e-6),
        ("WAVEX", "PCM_16", 1e-4),
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 5e-2),
        ("MP3", "MPEG_LAYER_III", 5e-2),
        ("AIFF", "PCM_16", 1e-4),
    ],
)
def test_every_format_gives_the_same_sound(form: str, subtype: str, tolerance: float) -> None:
    payload = wav(sine(), RATE, format=form, subtype=subtype)
    wave, truncated = preprocessor().waveform(payload)
    assert wave.shape == (RATE,)
    assert wave.dtype == np.float32
    np.testing.assert_allclose(wave[INNER], EXPECTED[INNER], atol=tolerance)
    assert not truncated or form == "MP3", "an MP3 is padded by its encoder"


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_every_rate_is_resampled(rate: int) -> None:
    wave, _ = preprocessor().waveform(wav(sine(rate), rate, subtype="FLOAT"))
    np.testing.assert_allclose(wave[INNER], EXPECTED[INNER], atol=1e-3)


def test_what_the_rate_cannot_hold_is_filtered_not_folded() -> None:
    wave, _ = preprocessor().waveform(wav(sine(48_000, hertz=12_000), 48_000))
    assert np.abs(wave[INNER]).max() < 1e-3


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_mixed_to_one(channels: int) -> None:
    sides = np.zeros((RATE, channels))
    sides[:, 0] = sine()
    wave, _ = preprocessor().waveform(wav(sides, RATE, subtype="FLOAT"))
    np.testing.assert_allclose(wave, EXPECTED / channels, atol=1e-6)


@pytest.mark.parametrize("shape", [(44_100,), (44_100, 2)])
def test_the_loudest_samples_stay_numbers(shape: tuple[int, ...]) -> None:
    loud = np.random.default_rng(0).choice([-3e38, 3e38], shape)
    wave, _ = preprocessor().waveform(wav(loud, 44_100, subtype="FLOAT"))
    assert np.isfinite(wave).all()
    assert np.abs(wave).max() == 1


def test_a_short_recording_is_padded_with_silence() -> None:
    wave, truncated = preprocessor().waveform(wav(sine(seconds=0.25), RATE, subtype="FLOAT"))
    np.testing.assert_allclose(wave[:4000], EXPECTED[:4000], atol=1e-6)
    assert not wave[4000:].any()
    assert not truncated


def test_a_long_recording_is_cut_and_says_so() -> None:
    ramp = np.linspace(0, 0.9, 3 * RATE)
    payload = wav(ramp, RATE, subtype="FLOAT")
    start, truncated = preprocessor().waveform(payload)
    np.testing.assert_allclose(start, ramp[:RATE], atol=1e-6)
    assert truncated
    centre, truncated = preprocessor(keep="centre").waveform(payload)
    np.testing.assert_allclose(centre, ramp[RATE : 2 * RATE], atol=1e-6)
    assert truncated


def test_a_waveform_model_gets_the_waveform() -> None:
    sample = preprocessor().decode(wav(sine(), RATE, subtype="FLOAT"))
    np.testing.assert_allclose(sample.data, EXPECTED, atol=1e-6)
    assert preprocessor().collate([sample, sample])["wave"].shape == (2, RATE)


def test_a_tone_lights_the_mel_band_of_its_frequency() -> None:
    spec = LogMel(window=512, hop=160, bands=40, low_hz=0, high_hz=8000)
    for hertz in (300.0, 1000.0, 3000.0):
        features = preprocessor(log_mel=spec).decode(wav(sine(hertz=hertz), RATE)).data
        assert features.shape == (40, RATE // 160 + 1)
        filters = mel_filters(spec, RATE)
        bins = np.fft.rfftfreq(512, 1 / RATE)
        peaks = bins[filters.argmax(axis=1)]
        band = int(features[:, 5:-5].mean(axis=1).argmax())
        assert abs(peaks[band] - hertz) <= max(60, 0.1 * hertz)


def test_the_spectrogram_is_the_logarithm_of_mel_power() -> None:
    """Against the definition, one frame at a time."""
    spec = LogMel(window=64, hop=16, bands=6, low_hz=20, high_hz=500, mean=-3, std=2, floor=1e-5)
    wave = np.random.default_rng(0).normal(0, 0.2, 200).astype(np.float32)
    features = LogMelSpectrogram(spec, 1000)(wave)
    assert features.shape == (6, 200 // 16 + 1)
    padded = np.pad(wave, 32, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    for frame in range(features.shape[1] - 1):
        power = np.abs(np.fft.rfft(padded[frame * 16 :][:64] * hann)) ** 2
        expected = (np.log(mel_filters(spec, 1000) @ power + 1e-5) + 3) / 2
        np.testing.assert_allclose(features[:, frame], expected, atol=1e-4)


def test_mel_filters_are_triangles_of_equal_area_in_hertz() -> None:
    spec = LogMel(window=4096, hop=160, bands=20, low_hz=100, high_hz=7000)
    filters = mel_filters(spec, RATE)
    areas = filters.sum(axis=1) * RATE / 4096
    np.testing.assert_allclose(areas, 1, rtol=0.02)
    bins = np.fft.rfftfreq(4096, 1 / RATE)
    peaks = bins[filters.argmax(axis=1)]
    steps = np.diff(peaks)
    assert steps[0] == pytest.approx(steps[1], abs=8), "evenly spaced below 1 kHz"
    assert steps[-1] / steps[-2] == pytest.approx(peaks[-1] / peaks[-2], abs=0.05), "then by ratio"
    outside = (bins < 100) | (bins > 7000)
    assert not filters[:, outside].any()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"RIFF",
        b"no sound at all",
        wav(sine(), RATE)[:30],
        wav(np.zeros(0), RATE),
        wav(np.array([0.1, np.nan]), RATE, subtype="FLOAT"),
        wav(np.array([0.1, np.inf]), RATE, subtype="FLOAT"),
        wav(sine(), RATE, format="VOC"),
        wav(sine(), 10),
        wav(sine(), RATE, format="FLAC")[:60],
    ],
    # Not the bytes themselves: a file of floats holds the second in which it was written.
    ids=lambda payload: f"{len(payload)} bytes",
)
def test_what_is_no_sound_is_unreadable(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        preprocessor().waveform(payload)


def test_a_recording_beyond_the_limit_is_refused() -> None:
    with pytest.raises(TooLarge, match="lasts 3 s; the limit is 2 s"):
        preprocessor(InputLimits(seconds=2)).waveform(wav(sine(seconds=3), RATE))


def header(channels: int, size: int, sound: bytes) -> bytes:
    """A WAV file of 16 bits that tells of `size` bytes of sound, with what there is."""
    frame = 2 * channels
    layout = struct.pack("<IHHIIHH", 16, 1, channels, RATE, RATE * frame, frame, 16)
    riff = b"RIFF" + struct.pack("<I", min(size + 36, 2**32 - 1)) + b"WAVEfmt " + layout
    return riff + b"data" + struct.pack("<I", size) + sound


def declare(flac: bytes, frames: int) -> bytes:
    """The file with another length in its header: the last 36 bits before the checksum."""
    place = slice(18, 26)
    fields = int.from_bytes(flac[place], "big") >> 36 << 36
    return flac[: place.start] + (fields | frames).to_bytes(8, "big") + flac[place.stop :]


def test_a_wav_that_claims_more_than_it_has_is_unreadable() -> None:
    sound = (sine() * 32767).astype("<i2").tobytes()
    wave, _ = preprocessor().waveform(header(1, len(sound), sound))
    np.testing.assert_allclose(wave, EXPECTED, atol=1e-4)
    with pytest.raises(Unreadable, match="its header declares 64,000 bytes, it has 32,000"):
        preprocessor().waveform(header(1, 2 * len(sound), sound))


@pytest.mark.parametrize("form", ["FLAC", "OGG"])
def test_a_long_silence_is_refused_by_its_header_however_small_the_file(form: str) -> None:
    minute = np.zeros(60 * 8000)
    payload = wav(minute, 8000, format=form)
    assert len(payload) < len(minute) / 60
    with pytest.raises(TooLarge, match="lasts 60 s"):
        preprocessor(InputLimits(seconds=30)).waveform(payload)


@pytest.mark.parametrize("keep", ["start", "centre"])
def test_a_flac_is_as_long_as_its_frames_whatever_its_header_says(keep: str) -> None:
    flac = wav(sine(), RATE, format="FLAC")
    with pytest.raises(Unreadable, match="its header declares 80,000 samples, it has 16,000"):
        preprocessor(seconds=3, keep=keep).waveform(declare(flac, 5 * RATE))
    for declared in (RATE // 2, 0):
        wave, truncated = preprocessor(keep=keep).waveform(declare(flac, declared))
        np.testing.assert_allclose(wave, EXPECTED, atol=1e-4)
        assert not truncated


def test_more_channels_than_any_room_has_are_refused() -> None:
    frame = bytes(2 * (MAX_CHANNELS + 1))
    with pytest.raises(TooLarge, match="9 channels; the limit is 8"):
        preprocessor().waveform(header(MAX_CHANNELS + 1, len(frame), frame))


def test_real_recordings_can_be_read(shared_data: Any) -> None:
    paths = [*(shared_data / "sounds").glob("*.wav"), shared_data / "speech/jfk.flac"]
    assert len(paths) == 4
    for path in paths:
        wave, truncated = preprocessor(seconds=5).waveform(path.read_bytes())
        assert truncated == (soundfile.info(path).duration > 5)
        assert np.abs(wave).max() > 0.01
