"""Containers of uncompressed audio: WAV, AIFF, AU, CAF, W64 and NIST, with true lengths.

libsndfile reads as many samples as the header declares, up to the end of the file. A program that
writes to a pipe leaves a placeholder as the length, and its file is complete. Any other length
beyond the end of the file means that the file is cut off.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from service.errors import Unreadable
from service.model.formats import streams

Order = Literal["little", "big"]

# Placeholders are 0, or at most 32 MiB below (SoX's AIFF) or above 2 or 4 GiB.
NEAR = 2**25
# Some programs omit the padding byte after a chunk of odd size, if one of these follows.
COMMON = (
    *(b"fmt ", b"data", b"fact", b"LIST", b"JUNK", b"bext", b"iXML", b"cue ", b"smpl", b"PEAK"),
    *(b"id3 ", b"ID3 ", b"COMM", b"SSND", b"FVER", b"NAME", b"AUTH", b"ANNO", b"COMT", b"MARK"),
)
W64_NAME = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # follows the four letters of a chunk's name
MP3_IN_WAV = 0x55
FMT = {"little": "<HH8xHH", "big": ">HH8xHH"}  # format, channels, bytes of a frame, bits
UNCOMPRESSED = (1, 3, 0xFFFE)  # integers, floats, either with an extended header
CAF_CODECS = (b"lpcm", b"alaw", b"ulaw")  # without ALAC: libsndfile's decoder for it is unsafe


class Chunk(NamedTuple):
    name: bytes
    start: int  # of its content
    size: int  # as declared

    def of(self, payload: bytes) -> bytes:
        return payload[self.start : self.start + self.size]


def wav(payload: bytes) -> bytes:
    """A WAV, RF64 or BW64 of either byte order; unless it is plain, reduced to format and audio.

    Raises:
        Unreadable: the audio is cut off or missing, or there are several.
    """
    if _is_plain(payload):
        _check_layout(payload[20:36], "little")
        return payload
    order: Order = "big" if payload.startswith(b"RIFX") else "little"
    chunks = list(_chunks(payload, order))
    if any(chunk.name in (b"RIFF", b"RIFX") for chunk in chunks):
        raise Unreadable("the file has several audio streams; send each in its own file")
    layout, audio = _only(chunks, b"fmt "), _only(chunks, b"data")
    if payload.startswith((b"RF64", b"BW64")) and audio.size == 2**32 - 1:
        sizes = _only(chunks, b"ds64").of(payload)
        audio = audio._replace(size=int.from_bytes(sizes[8:16], order))
    return _wav(payload, layout.of(payload), audio, order)


def _is_plain(payload: bytes) -> bool:
    """Whether a WAV has only a `fmt ` and a `data` chunk, like nearly all files."""
    if not payload.startswith(b"RIFF") or payload[12:16] != b"fmt " or payload[20:21] == b"\x55":
        return False
    data = 20 + int.from_bytes(payload[16:20], "little")
    size = int.from_bytes(payload[data + 4 : data + 8], "little")
    return payload[data : data + 4] == b"data" and 0 < size == len(payload) - data - 8


def w64(payload: bytes) -> bytes:
    """A Wave64 as a WAV. Its chunks have long names, and 64-bit sizes that include the header."""
    chunks, at, count = [], 40, 0
    while at + 24 <= len(payload):
        streams.check_parts(count := count + 1)
        size = int.from_bytes(payload[at + 16 : at + 24], "little")
        if payload[at + 4 : at + 16] == W64_NAME:
            chunks.append(Chunk(payload[at : at + 4], at + 24, max(0, size - 24)))
        at += max(24, size + -size % 8)
    return _wav(payload, _only(chunks, b"fmt ").of(payload), _only(chunks, b"data"), "little")


def _check_layout(layout: bytes, order: Order) -> None:
    """Refuse frames with padding, because libsndfile reads samples without gaps.

    Raises:
        Unreadable: frames have more bytes than their samples, or samples end within a byte.
    """
    layout = layout[:16].ljust(16, b"\0")
    tag, channels, frame, bits = struct.unpack(FMT[order], layout)
    packed = channels * ((bits + 7) // 8)
    if tag not in UNCOMPRESSED or frame == packed or (frame < packed and bits % 8 == 0):
        return
    if (tag, bits, frame) != (1, 24, 4 * channels):  # the one padded layout that it supports
        raise Unreadable(
            f"{bits} bits in a sample and {frame} bytes in a frame of {channels} channels"
            " do not agree; save the audio again"
        )


def _wav(payload: bytes, layout: bytes, audio: Chunk, order: Order) -> bytes:
    _check_layout(layout, order)
    frame = int.from_bytes(layout[12:14], order)
    content = payload[audio.start : audio.start + _true_size(payload, audio, frame)]
    if layout[:2] == MP3_IN_WAV.to_bytes(2, order):
        return streams.mp3(content)
    parts = (b"fmt ", layout), (b"data", content)
    body = b"WAVE" + b"".join(_chunk(name, part, order) for name, part in parts)
    return _chunk(b"RIFF" if order == "little" else b"RIFX", body, order)


def aiff(payload: bytes) -> bytes:
    """An AIFF or AIFC, reduced to format and audio, with the length of the audio chunk."""
    chunks = list(_chunks(payload, "big"))
    if any(chunk.name == b"FORM" for chunk in chunks):
        raise Unreadable("the file has several audio streams; send each in its own file")
    layout, audio = _only(chunks, b"COMM").of(payload), _only(chunks, b"SSND")
    if layout[18:22] == b"DWVW":  # libsndfile's decoder for it is unreliable
        raise Unreadable(f"DWVW in AIFF is not supported; send {streams.FORMATS}")
    channels, bits = (int.from_bytes(layout[at : at + 2], "big") for at in (0, 6))
    frames = int.from_bytes(layout[2:6], "big")
    if audio.size == 8 and frames:  # only the chunk's own fields: the size is a placeholder
        audio = audio._replace(size=0)
    plain = payload[8:12] == b"AIFF" or layout[18:22] in (b"NONE", b"twos", b"sowt")
    width = channels * ((bits + 7) // 8) if plain else 0
    size = _true_size(payload, audio, 0)
    if width and size == audio.size and size - 8 < frames * width:
        raise _cut(frames * width, size - 8)
    layout = layout[:2] + (2**31 - 1).to_bytes(4, "big") + layout[6:]  # libsndfile counts itself
    parts = (b"COMM", layout), (b"SSND", payload[audio.start : audio.start + size])
    body = payload[8:12] + b"".join(_chunk(name, part, "big") for name, part in parts)
    return _chunk(b"FORM", body, "big")


def au(payload: bytes) -> bytes:
    """A Sun/NeXT AU with its true length."""
    order: Order = "big" if payload.startswith(b".snd") else "little"
    start, size = (int.from_bytes(payload[at : at + 4], order) for at in (4, 8))
    size = _true_size(payload, Chunk(b"data", start, size), 0)
    return payload[:8] + size.to_bytes(4, order) + payload[12 : start + size]


def caf(payload: bytes) -> bytes:
    """A Core Audio file with its true length. A declared length of -1 means "to the end"."""
    if payload[28:32] not in CAF_CODECS:
        raise Unreadable(f"this codec in CAF is not supported; send {streams.FORMATS}")
    at, count = 8, 0
    while at + 12 <= len(payload):
        streams.check_parts(count := count + 1)
        name, size = payload[at : at + 4], int.from_bytes(payload[at + 4 : at + 12], "big")
        if name == b"data":
            size = _true_size(payload, Chunk(name, at + 12, size % 2**32), 0)
            return payload[: at + 4] + size.to_bytes(8, "big") + payload[at + 12 : at + 12 + size]
        at += 12 + size
    raise _missing(b"data")


def nist(payload: bytes) -> bytes:
    """A NIST SPHERE file, refused if it has less audio than its header declares."""
    facts = dict(
        re.findall(rb"(sample_count|channel_count|sample_n_bytes) -i (\d+)", payload[:1024])
    )
    start = int(payload[8:16].strip() or 0) if payload[8:16].strip().isdigit() else 1024
    size = 1
    for number in facts.values():
        size *= int(number)
    if len(facts) == 3 and size > len(payload) - start:
        raise _cut(size, len(payload) - start)
    return payload


def _chunks(payload: bytes, order: Order) -> Iterator[Chunk]:
    at, count = 12, 0
    while at + 8 <= len(payload):
        chunk = Chunk(payload[at : at + 4], at + 8, int.from_bytes(payload[at + 4 : at + 8], order))
        streams.check_parts(count := count + 1)
        yield chunk
        at = chunk.start + chunk.size
        if chunk.size % 2 and payload[at : at + 4] not in COMMON:
            at += 1


def _only(chunks: Sequence[Chunk], name: bytes) -> Chunk:
    found = [chunk for chunk in chunks if chunk.name == name]
    if not found:
        raise _missing(name)
    if len(found) > 1:
        raise Unreadable(
            f"the audio file has {len(found)} {name.decode().strip()} chunks; save it with one"
        )
    return found[0]


def _true_size(payload: bytes, audio: Chunk, frame: int) -> int:
    """The number of bytes of audio; without a declared length, all complete frames count.

    Raises:
        Unreadable: the file has less audio than the header declares.
    """
    left = max(0, len(payload) - audio.start)
    if not audio.size and payload[audio.start : audio.start + 4] in COMMON:
        return 0  # other chunks follow: there is no audio
    if not audio.size or (audio.size > left and _is_placeholder(audio.size)):
        return left - left % max(1, frame)
    if audio.size - left >= max(1, frame):
        raise _cut(audio.size, left)
    return min(audio.size, left)


def _is_placeholder(size: int) -> bool:
    return size >= 2**31 - NEAR and (size + NEAR) % 2**31 < 2 * NEAR


def _chunk(name: bytes, content: bytes, order: Order) -> bytes:
    return name + len(content).to_bytes(4, order) + content + bytes(len(content) % 2)


def _cut(declared: int, found: int) -> Unreadable:
    return Unreadable(
        f"the audio is cut off: its header declares {declared:,} bytes, it has {found:,};"
        " send the whole file"
    )


def _missing(name: bytes) -> Unreadable:
    return Unreadable(f"the audio file has no {name.decode().strip()} chunk; save it again")
