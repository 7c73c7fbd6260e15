"""Recordings that are damaged, lie about themselves, are not sounds, or are odd and valid."""

import io
import struct
from collections.abc import Iterator
from random import Random

import numpy as np
import soundfile
from numpy.typing import NDArray

from tests.hostile.case import ANY, OK, REFUSED, TOO_LARGE, UNREADABLE, File
from tests.hostile.damage import archive, damaged, noise

RATE = 8000
PCM, FLOAT = 1, 3  # of a WAV header
FORMATS = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}
OTHERS = {"VOC": "PCM_16", "MAT5": "PCM_16", "IRCAM": "PCM_16"}


def good() -> bytes:
    return encode(_tone())


def files(rng: Random) -> Iterator[File]:
    """Every hostile recording."""
    for format_, subtype in FORMATS.items():
        yield from damaged(format_, encode(_tone(), format_, subtype), rng)
    yield from _not_sounds(rng)
    yield from _liars(rng)
    yield from _odd(rng)
    yield silence_bomb("FLAC", "PCM_16", rate=1000)


def _not_sounds(rng: Random) -> Iterator[File]:
    yield File("one byte", b"\x00", UNREADABLE)
    yield File("noise", noise(rng, 1000), UNREADABLE)
    yield File("a text", b"no sound", UNREADABLE)
    yield File("a picture", b"\x89PNG\r\n\x1a\n" + bytes(100), UNREADABLE)
    yield File("a zip archive", archive(), UNREADABLE)
    for head in (b"RIFF\xff\xff\xff\xffWAVE", b"fLaC", b"OggS", b"\xff\xfb", b"ID3", b"FORM"):
        yield File(f"{head[:4]!r} with noise behind it", head + noise(rng, 500), REFUSED)
    for format_, subtype in OTHERS.items():
        yield File(format_, encode(_tone(), format_, subtype), UNREADABLE)


def _liars(rng: Random) -> Iterator[File]:
    """Headers that promise what the file does not hold, or what nothing can hold."""
    sound = noise(rng, 4000)
    yield File("WAV that claims 4 GB", wav(sound, data_bytes=2**32 - 1), ANY)
    yield File("WAV that claims nothing", wav(sound, data_bytes=0), ANY)
    for rate in (0, 1, 2**31 - 1, 2**32 - 1):
        yield File(f"WAV of {rate} Hz", wav(sound, rate=rate), REFUSED)
    for channels in (0, 1000, 65535):
        yield File(f"WAV of {channels} channels", wav(sound, channels=channels), ANY)
    for bits in (0, 7, 255):
        yield File(f"WAV of {bits} bits", wav(sound, bits=bits), ANY)
    yield File("WAV of an unknown kind", wav(sound, kind=0x7777), REFUSED)
    yield File("WAV without data", wav(sound)[:36], REFUSED)
    flac = encode(_tone(), "FLAC")
    total = flac[:21] + b"\x0f\xff\xff\xff\xff" + flac[26:]  # 36 bits count the samples
    yield File("FLAC that claims 2^36 samples", total, REFUSED)


def _odd(rng: Random) -> Iterator[File]:
    second = np.zeros(RATE, np.float32)
    for name, value in {"NaN": np.nan, "Inf": np.inf, "-Inf": -np.inf}.items():
        holed = second.copy()
        holed[rng.randrange(RATE)] = value
        yield File(f"one {name}", wav(holed.tobytes(), kind=FLOAT, bits=32), UNREADABLE)
    huge = np.full(RATE, 1e300)
    yield File("doubles beyond a float", wav(huge.tobytes(), kind=FLOAT, bits=64), ANY)
    yield File("floats of 1e38", wav((second + 1e38).tobytes(), kind=FLOAT, bits=32), ANY)
    yield File("subnormal floats", wav((second + 1e-40).tobytes(), kind=FLOAT, bits=32), OK)
    yield File("silence", encode(second), OK)
    yield File("clipped", encode(np.sign(_tone())), OK)
    yield File("one sample", encode(second[:1]), OK)
    yield File("no sample", encode(second[:0]), UNREADABLE)
    yield File("half a sample", wav(noise(rng, 101)), ANY)
    yield File("1000 Hz", encode(_tone(), rate=1000), OK)
    yield File("768 kHz", encode(_tone(), rate=768_000), ANY)
    yield File("eight channels", encode(np.zeros((RATE, 8))), OK)
    yield File("24 bits", encode(_tone(), "WAV", "PCM_24"), OK)
    yield File("ADPCM", encode(_tone(), "WAV", "IMA_ADPCM"), OK)


def silence_bomb(format_: str, subtype: str, rate: int = RATE) -> File:
    """An hour of silence in a small file."""
    content = encode(np.zeros(3600 * rate, np.float32), format_, subtype, rate)
    return File(f"an hour of silence in {format_}", content, TOO_LARGE)


def encode(
    wave: NDArray[np.floating], format_: str = "WAV", subtype: str = "PCM_16", rate: int = RATE
) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", rate, 1 if wave.ndim == 1 else wave.shape[1], subtype, format=format_
    ) as sound:
        # In pieces: libsndfile's Vorbis encoder fails on a long sound at once.
        for start in range(0, len(wave), 100_000):
            sound.write(wave[start : start + 100_000])
    content = file.getvalue()
    return _renumber(content) if format_ == "OGG" else content


def _renumber(ogg: bytes) -> bytes:
    """The stream is number 1, not one that libsndfile has drawn."""
    pages = []
    for page in map(bytearray, ogg.split(b"OggS")[1:]):
        page[10:14] = (1).to_bytes(4, "little")
        page[18:22] = bytes(4)  # the checksum counts itself as nothing
        page[18:22] = _ogg_checksum(b"OggS" + page).to_bytes(4, "little")
        pages.append(b"OggS" + page)
    return b"".join(pages)


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 of RFC 3533: not reflected, from 0, which zlib does not have."""
    checksum = 0
    for byte in page:
        checksum = checksum << 8 & 0xFFFFFFFF ^ CRC_TABLE[checksum >> 24 ^ byte]
    return checksum


def _crc_entry(byte: int) -> int:
    entry = byte << 24
    for _ in range(8):
        entry = entry << 1 ^ (0x104C11DB7 if entry >> 31 else 0)
    return entry


CRC_TABLE = [_crc_entry(byte) for byte in range(256)]


def wav(
    data: bytes,
    *,
    kind: int = PCM,
    channels: int = 1,
    rate: int = RATE,
    bits: int = 16,
    data_bytes: int | None = None,
) -> bytes:
    """A WAV whose header says whatever is asked of it."""
    align = channels * bits // 8 % 65536
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * align % 2**32, align, bits)
    claimed = len(data) if data_bytes is None else data_bytes
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", claimed)
    return b"RIFF" + struct.pack("<I", min(2**32 - 1, len(head) + claimed)) + head + data


def _tone() -> NDArray[np.float32]:
    """One second of 440 Hz."""
    wave: NDArray[np.float32] = 0.5 * np.sin(np.arange(RATE) * (2 * np.pi * 440 / RATE))
    return wave.astype(np.float32)
