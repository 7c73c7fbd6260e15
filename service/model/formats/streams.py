"""Compressed audio: MP3, FLAC and OGG are checked and counted before they are decoded.

Decoders skip damaged parts silently, and libsndfile stops at a length from the header or at an
estimate. So this module walks all frames or pages first, and corrects the length in the header.
"""

import zlib
from functools import cache

from service.errors import TooLarge, Unreadable

FORMATS = "WAV, FLAC, OGG, MP3, AIFF, AU, CAF, W64 or NIST"
MAX_PARTS = 100_000  # frames, pages or chunks: 40 minutes of MP3, one second of parsing
MAX_STREAMS = 100  # in sequence in an OGG
SEARCHED = 2**16  # bytes in which an MP3's first frame is searched, after tags
# kbit/s of an MP3's frame by MPEG version; index 0 means "free" and 15 is invalid.
BITRATES = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
MONO = 3
TRAILERS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")  # valid after an MP3's last frame
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
FLAC_TRIES = 1000  # positions checked for the last frame's header
FIRST_PAGE = 2  # the flag of an OGG stream's first page


def check_parts(count: int) -> None:
    """Limit the time for parsing a file.

    Raises:
        TooLarge: the file has too many parts.
    """
    if count > MAX_PARTS:
        raise TooLarge(
            f"the audio has more than {MAX_PARTS:,} frames, pages or chunks; send it in parts"
        )


def after_tags(payload: bytes, start: int = 0) -> int:
    """The end of the ID3v2 tags that begin at `start`. A file has a few at most."""
    for _ in range(10):
        if not payload.startswith(b"ID3", start) or len(payload) < start + 10:
            break
        size = 0
        for byte in payload[start + 6 : start + 10]:  # 7 bits each
            size = size << 7 | byte & 0x7F
        footer = 10 if payload[start + 5] & 0x10 else 0
        start += 10 + size + footer
    return start


@cache  # of at most 65,536
def _mp3_frame(second: int, third: int) -> tuple[int, int] | None:
    """Size and rate of a frame by its header's second and third byte; None if it is no header."""
    version, bitrate, rate = second >> 3 & 3, third >> 4, third >> 2 & 3
    if second & 0xE6 != 0xE2 or version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    hertz = RATES[version][rate]
    bits = BITRATES[version == 3][bitrate - 1] * 1000
    return (144 if version == 3 else 72) * bits // hertz + (third >> 1 & 1), hertz


def _find_first_mp3_frame(payload: bytes) -> int:
    most = min(SEARCHED, len(payload) - 4)
    at = payload.find(b"\xff", 0, most)
    while at >= 0 and not _starts_mp3(payload, at):
        at = payload.find(b"\xff", at + 1, most)
    if at < 0:
        raise Unreadable(f"not a supported audio file; send {FORMATS}")
    return at


def _starts_mp3(payload: bytes, at: int) -> bool:
    rate = None
    for _ in range(3):
        frame = _mp3_frame(payload[at + 1], payload[at + 2]) if payload[at] == 0xFF else None
        if not frame or rate not in (None, frame[1]):
            return False
        at, rate = at + frame[0], frame[1]
        if at + 4 > len(payload) or payload.startswith(TRAILERS, at):
            return True
    return True


def mp3(payload: bytes) -> bytes:
    """The frames of an MP3 without tags, with their true number in the header.

    Raises:
        Unreadable: there are no frames, the last is cut off, or other bytes lie between them.
    """
    count, runs = _mp3_runs(payload, _find_first_mp3_frame(payload))
    frames = b"".join(payload[first:end] for first, end in runs)
    size, _ = _mp3_frame(frames[1], frames[2]) or (0, 0)
    head = frames[:size]
    mark = max(head[:64].find(b"Xing"), head[:64].find(b"Info"))
    counted = mark > 0 and head[mark + 7] & 1
    vbri = head[36:40] == b"VBRI"
    if mark > 0 or vbri:
        count -= 1  # this frame holds no audio
    place = mark + 8 if counted else 50
    declared = int.from_bytes(head[place : place + 4], "big") if counted or vbri else 0
    if declared > count + 1:  # some encoders count the header's own frame
        raise Unreadable(
            f"the MP3 is cut off: its header declares {declared:,} frames, it has {count:,};"
            " send the whole file"
        )
    if counted:  # keep the header: it declares how much silence the encoder added
        fields = count.to_bytes(4, "big")
        if head[mark + 7] & 2:
            fields += len(frames).to_bytes(4, "big")
        return frames[:place] + fields + frames[place + len(fields) :]
    return _xing_frame(head, count) + frames[size if mark > 0 or vbri else 0 :]


def _mp3_runs(payload: bytes, at: int) -> tuple[int, list[tuple[int, int]]]:
    count, first, runs, kind = 0, at, [], None
    while at + 4 <= len(payload):
        frame = _mp3_frame(payload[at + 1], payload[at + 2]) if payload[at] == 0xFF else None
        if frame is None:
            runs.append((first, at))
            first = after_tags(payload, at)
            if first > at and first < len(payload):
                at = first
                continue
            if first == at and not payload.startswith(TRAILERS, at) and any(payload[at:]):
                raise Unreadable(
                    f"the MP3 is damaged: no frame begins at byte {at:,}; encode it again"
                )
            return count, runs
        if kind not in (None, (frame[1], payload[at + 3] >> 6 == MONO)):
            raise Unreadable("the MP3 changes its sample rate or channels; encode it again")
        kind = frame[1], payload[at + 3] >> 6 == MONO
        at += frame[0]
        count += 1
        check_parts(count)
    if at > len(payload):
        raise Unreadable("the MP3 is cut off in its last frame; send the whole file")
    return count, [*runs, (first, at)]


def _xing_frame(head: bytes, count: int) -> bytes:
    mpeg1, mono = head[1] >> 3 & 3 == 3, head[3] >> 6 == MONO
    header = bytes((0xFF, head[1] | 1, 0x90 | head[2] & 0x0C, head[3]))  # without a checksum
    side = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    size, _ = _mp3_frame(header[1], header[2]) or (0, 0)
    content = header + bytes(side) + b"Xing" + b"\0\0\0\1" + count.to_bytes(4, "big")
    return content + bytes(size - len(content))


def flac(payload: bytes) -> bytes:
    """A FLAC with its true number of samples in the header.

    Raises:
        Unreadable: the file has fewer samples than its header declares.
    """
    if len(payload) < 42:
        raise Unreadable("the FLAC is cut off in its header; send the whole file")
    at = 4
    for _ in range(MAX_PARTS):
        last, size = payload[at] & 0x80, int.from_bytes(payload[at + 1 : at + 4], "big")
        at += 4 + size
        if last or at + 4 > len(payload):
            break
    fields = int.from_bytes(payload[18:26], "big")
    declared = fields & 2**36 - 1
    total = _flac_samples(payload, at)
    if declared > total:
        raise Unreadable(
            f"the FLAC is cut off: its header declares {declared:,} samples, it has {total:,};"
            " send the whole file"
        )
    return payload[:18] + (fields - declared + total).to_bytes(8, "big") + payload[26:]


def _flac_samples(payload: bytes, start: int) -> int:
    sync, like = payload[start : start + 2], payload[start + 2 : start + 4]
    if sync not in (b"\xff\xf8", b"\xff\xf9"):
        raise Unreadable("the FLAC is damaged: no frame follows its header; encode it again")
    fixed = int.from_bytes(payload[10:12], "big") if sync == b"\xff\xf8" else 1
    end = len(payload)
    for _ in range(FLAC_TRIES):
        at = payload.rfind(sync, start, end)
        if at < 0:
            break
        if samples := _flac_end(payload[at : at + 16].ljust(16, b"\0"), fixed, like):
            return samples
        end = at + 1
    return 0


def _flac_end(head: bytes, fixed: int, like: bytes) -> int:
    """The number of samples up to the end of this frame; 0 if the bytes are no frame header."""
    if (head[2] ^ like[0]) & 0x0F or (head[3] ^ like[1]) & 0x0F or head[2] < 0x10:
        return 0
    code, more = head[2] >> 4, 8 - (head[4] ^ 0xFF).bit_length()
    number = head[4] & 0x7F >> more
    at = 4 + max(1, more)
    for byte in head[5:at]:
        number = number << 6 | byte & 0x3F
    if code in (6, 7):
        width = code - 5
        block = int.from_bytes(head[at : at + width], "big") + 1
        at += width
    else:
        block = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 0x0F, 0)
    return number * fixed + block if _crc8(head[:at]) == head[at] else 0


def _crc8(content: bytes) -> int:
    remainder = 0
    for byte in content:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder << 1 ^ (0x107 if remainder & 0x80 else 0)
    return remainder


def ogg(payload: bytes) -> list[bytes]:
    """The consecutive streams of an OGG, each as a separate file.

    Raises:
        Unreadable: a page is damaged, cut off or missing, or a stream is not supported.
    """
    streams: list[list[tuple[int, int, int]]] = []  # for each page: start, start of its body, end
    expected: dict[int, int] = {}  # a stream's serial number -> the number of its next page
    current = skipped = -1
    at, count, opening = 0, 0, False
    while at < len(payload):
        check_parts(count := count + 1)
        body, end = _ogg_page_body(payload, at)
        serial = int.from_bytes(payload[at + 14 : at + 18], "little")
        number = int.from_bytes(payload[at + 18 : at + 22], "little")
        first = bool(payload[at + 5] & FIRST_PAGE)
        if first and payload.startswith(b"fishead", body):
            skipped = serial  # OGG Skeleton: metadata of the other streams
        elif serial != skipped:
            if first:
                _check_ogg_stream(payload[body:end], opening)
                streams.append([])
                current = serial
            elif serial != current or number != expected[serial]:
                raise Unreadable(f"the OGG lacks a page before byte {at:,}; send the whole file")
            opening = first
            expected[serial] = number + 1 & 2**32 - 1
            streams[-1].append((at, body, end))
        at = end
    if len(streams) > MAX_STREAMS:
        raise TooLarge(f"the OGG has {len(streams)} streams; the limit is {MAX_STREAMS}")
    return [_ogg_stream(payload, pages) for pages in streams]


def _ogg_page_body(payload: bytes, at: int) -> tuple[int, int]:
    sizes = payload[at + 27 : at + 27 + payload[at + 26]] if at + 27 <= len(payload) else b""
    body = at + 27 + len(sizes)
    end = body + sum(sizes)
    if not payload.startswith(b"OggS", at) or end > len(payload) or len(sizes) != payload[at + 26]:
        raise Unreadable(f"the OGG is cut off or damaged at byte {at:,}; send the whole file")
    # OGG's CRC-32 starts at 0 and is not mirrored, unlike zlib's. So mirror the bytes and result.
    zeroed = payload[at : at + 22] + bytes(4) + payload[at + 26 : end]
    mirrored = zlib.crc32(zeroed.translate(MIRRORED), 2**32 - 1) ^ 2**32 - 1
    if mirrored.to_bytes(4, "big").translate(MIRRORED) != payload[at + 22 : at + 26]:
        raise Unreadable(f"the OGG is damaged at byte {at:,}; send the file again")
    return body, end


def _check_ogg_stream(body: bytes, opening: bool) -> None:
    if not body.startswith((b"\x01vorbis", b"OpusHead", b"\x7fFLAC")):
        name = "Speex" if body.startswith(b"Speex") else "an unsupported stream"
        raise Unreadable(f"the OGG holds {name}; send Vorbis, Opus or FLAC without video")
    if opening:
        raise Unreadable("the OGG has several simultaneous streams; send one of them")


def _ogg_stream(payload: bytes, pages: list[tuple[int, int, int]]) -> bytes:
    if payload.startswith(b"\x7fFLAC", pages[0][1]):  # the same packets as in a FLAC file
        return flac(b"".join(payload[body:end] for _, body, end in pages)[9:])
    return b"".join(payload[start:end] for start, _, end in pages)
