"""Containers: what surrounds the pixels of an image file may be broken without hiding them."""

import io
import re
import struct
import zlib
from zlib import crc32

from PIL import Image
from PIL.PngImagePlugin import MAX_TEXT_CHUNK

from service.errors import Unreadable

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
ICON = b"\0\0\1\0"
MOST_PIECES = 100_000  # chunks of a PNG, segments of a JPEG: more are not walked in Python

NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")  # of a PNG
USEFUL = (b"gAMA", b"iCCP", b"sRGB", b"eXIf")  # while their checksum is right
START_OF_SCAN, END_OF_JPEG = b"\xff\xda", b"\xff\xd9"
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of what lists the components
SEGMENT = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # not a restart marker, nor an escaped 0xFF
# Bits that change a picture whose decoder needs them; behind each restart marker once more.
NOISE = b"\x55" * 64 + b"".join(b"\xff%c" % (0xD0 + n % 8) + b"\x55" * 64 for n in range(16))


def mended(payload: bytes) -> bytes | None:
    """The same picture in a whole file; None if the file is of another kind.

    Raises:
        Unreadable: pixels are missing.
    """
    if payload.startswith(PNG):
        return _mended_png(payload)
    if payload.startswith(JPEG):
        return _mended_jpeg(payload)
    return None


def _mended_png(payload: bytes) -> bytes:
    """Without text and animation, damaged metadata, and what is cut off behind the pixels."""
    kept, place = [PNG], len(PNG)
    for _ in range(MOST_PIECES):
        header = payload[place : place + 8]
        if len(header) < 8:
            break
        length, kind = struct.unpack(">I4s", header)
        content = payload[place + 8 : place + 8 + length]
        checksum = struct.pack(">I", crc32(kind + content))
        place += length + 12
        whole = payload[place - 4 : place] == checksum and not (
            kind == b"iCCP" and _bursts(content)
        )
        if kind in NEEDED or (kind in USEFUL and whole):
            kept += [struct.pack(">I", len(content)), kind, content, checksum]
    return b"".join((*kept, struct.pack(">I", 0), b"IEND", struct.pack(">I", crc32(b"IEND"))))


def _bursts(profile: bytes) -> bool:
    """Whether a PNG's compressed profile is larger than Pillow takes."""
    stream = zlib.decompressobj()
    try:
        stream.decompress(profile.partition(b"\0")[2][1:], MAX_TEXT_CHUNK)
    except zlib.error:  # Pillow ignores it
        return False
    return bool(stream.unconsumed_tail)


def _mended_jpeg(payload: bytes) -> bytes:
    """With an end behind the last scan, if no pixel of it is missing.

    Whether a scan is whole only the decoder can tell, and it fills up silently what is missing:
    other bits behind the scan must not change a pixel.
    """
    end, complete = _scans(payload)
    scans = payload[:end].rstrip(b"\xff")
    checksums = set()
    for behind in (b"", NOISE):
        candidate = scans + behind + END_OF_JPEG
        with Image.open(io.BytesIO(candidate), formats=("JPEG",)) as picture:
            picture.decodermaxblock = len(candidate)
            checksums.add(crc32(picture.tobytes()))
    if len(checksums) > 1 or not complete:
        raise Unreadable("the JPEG ends before its last pixel; send the whole file")
    return scans + END_OF_JPEG


def _scans(payload: bytes) -> tuple[int, bool]:
    """Where the first picture of a JPEG ends, and whether its scans bring all coefficients.

    The end is its end marker, the start of a second picture, or the end of the file.
    """
    place, missing = len(JPEG), {0: 1}  # component -> a bit for each of its 64 coefficients
    for _ in range(MOST_PIECES):
        found = SEGMENT.search(payload, place)
        if not found or found.group() in (JPEG, END_OF_JPEG):
            return found.start() if found else len(payload), not any(missing.values())
        start = found.end() + 2
        place = found.end() + int.from_bytes(payload[found.end() : start])
        if found.group() == START_OF_SCAN:
            components, limits = payload[start + 1 : place - 3 : 2], payload[place - 3 : place]
            if limits[2] & 15 == 0:  # up to the last bit
                brought = (2 << limits[1]) - (1 << limits[0])
                missing |= {one: missing[one] & ~brought for one in components}
        elif found.group()[1] in FRAMES:
            missing = dict.fromkeys(payload[start + 6 : place : 3], 2**64 - 1)
    return len(payload), False


def largest_icon(payload: bytes) -> bytes:
    """The largest picture of an icon file, as a PNG or as an icon file of one picture."""
    [number] = struct.unpack_from("<H", payload, 4)
    entries = [struct.unpack_from("<BBBBHHII", payload, 6 + 16 * n) for n in range(number)]
    entry = max(entries, key=lambda e: ((e[0] or 256) * (e[1] or 256), e[5]))
    width, height, *rest, size, place = entry
    content = payload[place : place + size]
    if content.startswith(PNG):
        return content
    if struct.unpack_from("<II", content, 4) != (width or 256, 2 * (height or 256)):
        raise Unreadable("the icon is not of the size that its directory says; save it as a PNG")
    return ICON + struct.pack("<HBBBBHHII", 1, width, height, *rest, size, 22) + content
