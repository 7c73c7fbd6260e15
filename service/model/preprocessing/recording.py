"""A recording becomes mono sound at its own rate: all that is asked for, or an error."""

import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from service.errors import TooLarge, Unreadable
from service.model.preprocessing import chunks, streams
from service.model.preprocessing.streams import FORMATS

RATES = range(1_000, 384_001)  # Hz, up to those of bats; anything else is a damaged header
MAX_CHANNELS = 8  # 7.1; a WAV can claim 1,024
LOUDEST = 2.0**32  # where full scale is 1; beyond any integer's, and float32 does not overflow
BLOCK = 2**20  # samples that are decoded at a time
VERIFIED = 2**24  # samples up to which a FLAC is decoded to its end, for its checksums: 0.3 s
# What browsers and telephones record, which belongs to another decoder.
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


class Sound(NamedTuple):
    """A part of a recording."""

    wave: Floats  # float32[frames], not limited to -1..1
    rate: int  # Hz
    whole: bool  # whether the recording is no longer


def read(payload: bytes, seconds: float, centre: bool, most: float) -> Sound:
    """The first `seconds` of a recording, or those in its middle, mixed to mono.

    Raises:
        Unreadable: it is damaged, cut, or in a format that is not taken.
        TooLarge: it lasts more than `most` seconds, or has too many channels.
    """
    try:
        files = [soundfile.SoundFile(io.BytesIO(stream)) for stream in _streams(payload)]
        return _read(files, seconds, centre, most)
    except (Unreadable, TooLarge):
        raise
    except soundfile.LibsndfileError as error:
        raise Unreadable(
            f"the recording is damaged or its codec is not taken; send {FORMATS}"
            f" ({error.error_string})"
        ) from error
    except Exception as error:  # decoders of foreign bytes raise whatever they like
        raise Unreadable(f"the recording is damaged: {error}") from error


def _streams(payload: bytes) -> list[bytes]:
    """The payload as files whose headers libsndfile can believe, to be played one by one."""
    content = payload[streams.after_tags(payload) :]
    if content.startswith(b"OggS"):
        return streams.ogg(content)
    for at, magic, repair in CONTAINERS:
        if content.startswith(magic, at):
            return [repair(content)]
    for at, magic, name in FOREIGN:
        if content.startswith(magic, at):
            raise Unreadable(f"{name} is not taken; send {FORMATS}")
    return [streams.mp3(content)]


def _read(files: Sequence[soundfile.SoundFile], seconds: float, centre: bool, most: float) -> Sound:
    rate, total = files[0].samplerate, sum(file.frames for file in files)
    for file in files:
        _check(file, rate)
    if total > most * rate:
        raise TooLarge(f"the recording lasts {total / rate:.0f} s; at most {most:.0f} s are taken")
    wanted = math.ceil(seconds * rate)
    first = (total - wanted) // 2 if centre and total > wanted else 0
    left, pieces = min(total, wanted), []
    for file in files:
        if first < file.frames and left:
            pieces.append(_mono(file, first, min(file.frames - first, left)))
            left -= len(pieces[-1])
        first = max(0, first - file.frames)
    if not pieces:
        raise Unreadable("the recording holds no sound")
    wave = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return Sound(wave, rate, total <= wanted)


def _check(file: soundfile.SoundFile, rate: int) -> None:
    if file.samplerate not in RATES:
        raise Unreadable(f"a sample rate of {file.samplerate} Hz cannot be meant")
    if file.samplerate != rate:
        raise Unreadable("the recording changes its sample rate; send its parts by themselves")
    if file.channels > MAX_CHANNELS:
        raise TooLarge(
            f"the recording has {file.channels} channels; at most {MAX_CHANNELS} are taken"
        )


def _mono(file: soundfile.SoundFile, first: int, count: int) -> Floats:
    """float32[count] from `first` on, decoded piece by piece.

    Raises:
        Unreadable: there are fewer, or some are not numbers.
    """
    end = last = first + count
    if count < file.frames:
        form = file.format
        if form == "FLAC" and file.frames * file.channels <= VERIFIED:
            last = file.frames
        elif first and form != "MP3" and file.seekable():  # an MP3's frames need those before
            file.seek(first)
            first, end, last = 0, count, count
    step = max(1, BLOCK // file.channels)
    integers = file.subtype.startswith("PCM")  # which are numbers, and at most 1
    pieces: list[Floats] = []
    for start in range(0, last, step):
        asked = min(step, last - start)
        channels = file.read(asked, dtype="float32", always_2d=True)  # float32[frames, channels]
        if len(channels) < asked:
            found = start + len(channels)
            raise Unreadable(
                f"the recording is damaged: sample {found:,} cannot be decoded; encode it anew"
            )
        if start + asked <= first or start >= end:
            continue
        channels = channels[max(0, first - start) : end - start]
        if not integers:
            if not np.isfinite(channels).all():
                raise Unreadable("the recording holds samples that are not numbers")
            # Without limits, the sums of mixing and resampling overflow.
            channels = channels.clip(-LOUDEST, LOUDEST)
        pieces.append(channels[:, 0] if file.channels == 1 else channels.mean(axis=1))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
