"""Image containers: repairs damaged files if all pixels are there, and refuses other ones."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from zlib import crc32

from PIL import Image
from PIL.PngImagePlugin import MAX_TEXT_CHUNK

from service.errors import Unreadable

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
ICON = b"\0\0\1\0"
MAX_PIECES = 100_000  # chunks of a PNG, segments of a JPEG; the rest is ignored

NEEDED = (b"IHDR", b"PLTE")  # chunks of a PNG, in addition to its pixels
USEFUL = {b"gAMA": 4, b"iCCP": 3, b"sRGB": 1, b"eXIf": 0, b"tRNS": 1}  # chunk -> minimum bytes
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a PNG's colour type -> channels
PIECE = 2**14  # bytes decompressed by one call, to 16 MiB at most
START_OF_SCAN, END_OF_JPEG = b"\xff\xda", b"\xff\xd9"
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of frame headers
SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # no restart markers and no escaped 0xFF
FEW_SCANS = 20  # limit for a JPEG that is decoded again; programs write ten
# Bits that change the pixels if the decoder needs more bits; repeated for each restart marker.
NOISE = b"\x55" * 64 + b"".join(b"\xff%c" % (0xD0 + n % 8) + b"\x55" * 64 for n in range(16))


def repaired(payload: bytes) -> bytes | None:
    """The same image in a complete file; None for kinds of files that cannot be repaired.

    Raises:
        Unreadable: pixels are missing.
    """
    if payload.startswith(PNG):
        return _repaired_png(payload)
    if payload.startswith(JPEG):
        return _repaired_jpeg(payload)
    return None


def check_complete(image: Image.Image, payload: bytes) -> None:
    """Refuse an image whose decoding ended early: a JPEG ends in grey pixels, a PNG in black ones.

    Raises:
        Unreadable: pixels are missing.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    levels = last if isinstance(last, tuple) else (last,)
    if image.format in ("JPEG", "MPO") and set(levels) <= {127, 128}:
        _repaired_jpeg(payload, image.size)
    elif image.format == "PNG" and not any(levels) and not payload[28]:  # not interlaced
        width, height, depth, colour = struct.unpack_from(">IIBB", payload, 16)
        line = 1 + (width * depth * CHANNELS[colour] + 7) // 8
        if _inflated_size(payload) < height * line:
            raise Unreadable("the PNG ends before its last pixel; send the whole file")


def _inflated_size(payload: bytes) -> int:
    stream, total = zlib.decompressobj(), 0
    for kind, content, _ in _chunks(payload):
        if kind == b"IDAT":
            for start in range(0, len(content), PIECE):
                try:
                    total += len(stream.decompress(content[start : start + PIECE]))
                except zlib.error:
                    return total
                if stream.eof:
                    return total
    return total


def _chunks(payload: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Kind and content of a PNG's chunks, and whether their checksums match."""
    place = len(PNG)
    for _ in range(MAX_PIECES):
        header = payload[place : place + 8]
        if len(header) < 8:
            return
        length, kind = struct.unpack(">I4s", header)
        content = payload[place + 8 : place + 8 + length]
        place += length + 12
        yield kind, content, payload[place - 4 : place] == _checksum(kind, content)


def _checksum(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", crc32(kind + content))


def _repaired_png(payload: bytes) -> bytes:
    """The PNG without text, animation, damaged metadata, and incomplete chunks after the pixels."""
    kept = []
    for kind, content, whole in _chunks(payload):
        if kind in NEEDED and not whole:
            raise Unreadable(f"the PNG's {kind.decode()} is damaged; send the whole file")
        useful = whole and len(content) >= USEFUL.get(kind, len(content) + 1)
        if kind in (*NEEDED, b"IDAT") or (
            useful and (kind != b"iCCP" or _is_usable_profile(content))
        ):
            kept.append((kind, content))
    return PNG + b"".join(
        struct.pack(">I", len(content)) + kind + content + _checksum(kind, content)
        for kind, content in (*kept, (b"IEND", b""))
    )


def _is_usable_profile(profile: bytes) -> bool:
    _, _, compressed = profile.partition(b"\0")
    stream = zlib.decompressobj()
    try:
        stream.decompress(compressed[1:], MAX_TEXT_CHUNK)
    except zlib.error:
        return False
    return compressed.startswith(b"\0") and stream.eof


def _repaired_jpeg(payload: bytes, size: tuple[int, int] | None = None) -> bytes:
    """The JPEG with an end marker after its last scan, if no pixel is missing.

    Only the decoder knows whether a scan is complete, and it fills missing pixels silently. So the
    scans are decoded twice, with different bits after them; the pixels must be equal.

    Args:
        size: the size at which pixels are compared; None for the image's own.
    """
    end, complete = _scans(payload)
    if not complete:
        raise Unreadable("the JPEG ends before its last scan; send the whole file")
    scans = payload[:end].rstrip(b"\xff")
    checksums = set()
    for behind in (b"", NOISE):
        candidate = scans + behind + END_OF_JPEG
        with Image.open(io.BytesIO(candidate), formats=("JPEG",)) as image:
            image.decodermaxblock = len(candidate)
            image.draft(None, size)
            checksums.add(crc32(image.tobytes()))
    if len(checksums) > 1:
        raise Unreadable("the JPEG ends before its last pixel; send the whole file")
    return scans + END_OF_JPEG


def _scans(payload: bytes) -> tuple[int, bool]:
    """Where the first image of a JPEG ends, and whether its scans contain all coefficients.

    The image ends at its end marker, at the start of a second image, or at the end of the file.
    Scans before an end marker count as complete: their file was written in low quality.
    """
    place, scans, missing = (
        len(JPEG),
        0,
        {0: 1},
    )  # component -> one bit for each of its 64 missing coefficients
    for _ in range(MAX_PIECES):
        found = SEGMENT.search(payload, place)
        if not found or found.group() in (JPEG, END_OF_JPEG):
            ended = found is not None and found.group() == END_OF_JPEG
            end = found.start() if found else len(payload)
            return end, ended or not any(missing.values())
        start = found.end() + 2
        place = found.end() + int.from_bytes(payload[found.end() : start])
        if found.group() == START_OF_SCAN:
            scans += 1
            if scans > FEW_SCANS:
                raise Unreadable(
                    f"the JPEG is damaged and has over {FEW_SCANS} scans; save it again"
                )
            components, limits = payload[start + 1 : place - 3 : 2], payload[place - 3 : place]
            if limits[2] & 15 == 0:  # this scan contains the last bit
                brought = (2 << limits[1]) - (1 << limits[0])
                missing |= {one: missing[one] & ~brought for one in components}
        elif found.group()[1] in FRAMES:
            missing = dict.fromkeys(payload[start + 6 : place : 3], 2**64 - 1)
    return len(payload), False


def largest_icon(payload: bytes) -> bytes:
    """The largest image of an icon file, as a PNG or as an icon file of one image."""
    [number] = struct.unpack_from("<H", payload, 4)
    entries = [struct.unpack_from("<BBBBHHII", payload, 6 + 16 * n) for n in range(number)]
    entry = max(entries, key=lambda e: ((e[0] or 256) * (e[1] or 256), e[5]))
    width, height, *rest, size, place = entry
    content = payload[place : place + size]
    if content.startswith(PNG):
        return content
    if struct.unpack_from("<II", content, 4) != (width or 256, 2 * (height or 256)):
        raise Unreadable("the icon's size does not match its directory; save it as a PNG")
    return ICON + struct.pack("<HBBBBHHII", 1, width, height, *rest, size, 22) + content
