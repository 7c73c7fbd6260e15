"""Audio decoding: an audio file becomes mono samples at its own rate, complete or not at all."""

import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from service.errors import TooLarge, Unreadable
from service.model.formats import chunks, streams
from service.model.formats.streams import FORMATS

RATES = range(1_000, 384_001)  # Hz, up to bat recorders; other rates come from damaged headers
MAX_CHANNELS = 8  # 7.1; a WAV can declare 1,024
LOUDEST = 2.0**32  # full scale is 1; above every integer format, and float32 cannot overflow
BLOCK = 2**20  # samples decoded by one call
VERIFIED = 2**24  # samples; a shorter FLAC is decoded to its end for its checksums, in 0.3 s
# Formats of browsers and phones, which libsndfile cannot decode.
FOREIGN = (
    (4, b"ftyp", "MP4"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (0, b"#!AMR", "AMR"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    *((0, bytes((0xFF, second)), "MPEG layer II") for second in (0xF4, 0xF5, 0xFC, 0xFD)),
)

CONTAINERS: tuple[tuple[int, bytes, Callable[[bytes], bytes]], ...] = (
    (8, b"WAVE", chunks.wav),
    (8, b"AIF", chunks.aiff),
    (0, b"fLaC", streams.flac),
    (0, b".snd", chunks.au),
    (0, b"dns.", chunks.au),
    (0, b"caff", chunks.caf),
    (0, b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1", chunks.w64),
    (0, b"NIST_1A", chunks.nist),
)

Floats = NDArray[np.float32]


class Excerpt(NamedTuple):
    """A part of an audio file."""

    wave: Floats  # float32[frames], not limited to -1..1
    rate: int  # Hz
    whole: bool  # whether this is the whole file


def read(payload: bytes, seconds: float, centre: bool, most: float) -> Excerpt:
    """The first or the middle `seconds` of an audio file, mixed to mono.

    Raises:
        Unreadable: the file is damaged, cut off, or in an unsupported format.
        TooLarge: it is longer than `most` seconds, or has too many channels.
    """
    try:
        files = [soundfile.SoundFile(io.BytesIO(stream)) for stream in _playable_streams(payload)]
        return _read(files, seconds, centre, most)
    except (Unreadable, TooLarge):
        raise
    except soundfile.LibsndfileError as error:
        raise Unreadable(
            f"the audio is damaged or its codec is not supported; send {FORMATS}"
            f" ({error.error_string})"
        ) from error
    except Exception as error:  # decoders raise any kind of error for damaged files
        raise Unreadable(f"the audio is damaged: {error}") from error


def _playable_streams(payload: bytes) -> list[bytes]:
    content = payload[streams.after_tags(payload) :]
    if content.startswith(b"OggS"):
        return streams.ogg(content)
    for at, magic, repair in CONTAINERS:
        if content.startswith(magic, at):
            return [repair(content)]
    for at, magic, name in FOREIGN:
        if content.startswith(magic, at):
            raise Unreadable(f"{name} is not supported; send {FORMATS}")
    return [streams.mp3(content)]


def _read(
    files: Sequence[soundfile.SoundFile], seconds: float, centre: bool, most: float
) -> Excerpt:
    rate, total = files[0].samplerate, sum(file.frames for file in files)
    for file in files:
        _check(file, rate)
    if total > most * rate:
        raise TooLarge(f"the audio lasts {total / rate:.0f} s; the limit is {most:.0f} s")
    wanted = math.ceil(seconds * rate)
    first = (total - wanted) // 2 if centre and total > wanted else 0
    left, pieces = min(total, wanted), []
    for file in files:
        if first < file.frames and left:
            pieces.append(_mono(file, first, min(file.frames - first, left)))
            left -= len(pieces[-1])
        first = max(0, first - file.frames)
    if not pieces:
        raise Unreadable("the audio file has no samples")
    wave = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return Excerpt(wave, rate, total <= wanted)


def _check(file: soundfile.SoundFile, rate: int) -> None:
    if file.samplerate not in RATES:
        raise Unreadable(
            f"a sample rate of {file.samplerate} Hz is not supported; it must be from"
            f" {RATES[0]:,} to {RATES[-1]:,} Hz"
        )
    if file.samplerate != rate:
        raise Unreadable("the audio changes its sample rate; send its parts as separate files")
    if file.channels > MAX_CHANNELS:
        raise TooLarge(f"the audio has {file.channels} channels; the limit is {MAX_CHANNELS}")


def _mono(file: soundfile.SoundFile, first: int, count: int) -> Floats:
    """float32[count] from sample `first`, decoded in blocks.

    Raises:
        Unreadable: there are fewer samples, or some are not finite numbers.
    """
    end = last = first + count
    if count < file.frames:
        form = file.format
        if form == "FLAC" and file.frames * file.channels <= VERIFIED:
            last = file.frames
        elif first and form != "MP3" and file.seekable():  # an MP3 frame needs the frames before it
            file.seek(first)
            first, end, last = 0, count, count
    step = max(1, BLOCK // file.channels)
    integers = file.subtype.startswith("PCM")  # always finite, and at most 1
    pieces: list[Floats] = []
    for start in range(0, last, step):
        asked = min(step, last - start)
        channels = file.read(asked, dtype="float32", always_2d=True)  # float32[frames, channels]
        if len(channels) < asked:
            found = start + len(channels)
            raise Unreadable(
                f"the audio is damaged: sample {found:,} cannot be decoded; encode it again"
            )
        if start + asked <= first or start >= end:
            continue
        channels = channels[max(0, first - start) : end - start]
        if not integers:
            if not np.isfinite(channels).all():
                raise Unreadable("the audio has samples that are NaN or infinity")
            # Without this limit, the sums of mixing and resampling overflow.
            channels = channels.clip(-LOUDEST, LOUDEST)
        pieces.append(channels[:, 0] if file.channels == 1 else channels.mean(axis=1))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
