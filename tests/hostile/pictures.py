"""Pictures that are damaged, lie about themselves, are not pictures, or are odd and valid."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, PngImagePlugin

from tests.hostile.case import ANY, OK, REFUSED, TOO_LARGE, UNREADABLE, File
from tests.hostile.damage import archive, damaged, noise

SIZE = (64, 48)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "ICO")
HEIC = Path(__file__).parents[1] / "heic/rgba.heic"
MODES = {"1": "PNG", "L": "JPEG", "LA": "PNG", "P": "GIF", "RGBA": "PNG", "CMYK": "JPEG"}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'


def good() -> bytes:
    return encode(Image.new("RGB", SIZE, (200, 30, 40)), "PNG")


def files(rng: Random) -> Iterator[File]:
    """Every hostile picture."""
    yield from _damaged(rng)
    yield from _not_pictures(rng)
    yield from _liars()
    yield from _odd(rng)
    yield from _metadata()
    yield png_bomb()
    yield scans_bomb(side=200, scans=20)


def _damaged(rng: Random) -> Iterator[File]:
    for format_ in FORMATS:
        yield from damaged(format_, encode(_noisy(rng), format_), rng)
    yield from damaged("HEIC", HEIC.read_bytes(), rng)


def _not_pictures(rng: Random) -> Iterator[File]:
    yield File("one byte", b"\x00", UNREADABLE)
    yield File("noise", noise(rng, 1000), UNREADABLE)
    yield File("a text", b"no picture", UNREADABLE)
    yield File("SVG that reads a file", SVG, UNREADABLE)
    yield File("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UNREADABLE)
    yield File("a sound", b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(28), UNREADABLE)
    yield File("a zip archive", archive(), UNREADABLE)
    for name, head in {
        "JPEG": b"\xff\xd8\xff\xe0",
        "PNG": b"\x89PNG\r\n\x1a\n",
        "GIF": b"GIF89a",
        "BMP": b"BM",
        "TIFF": b"II*\x00",
        "WEBP": b"RIFF\x00\x00\x00\x00WEBP",
    }.items():
        yield File(f"only the first bytes of {name}", head, UNREADABLE)
        yield File(f"{name} with noise behind its first bytes", head + noise(rng, 500), REFUSED)
    yield File("GIF that is a script", b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)", REFUSED)


def _liars() -> Iterator[File]:
    """Headers that promise what the file does not hold."""
    yield File("PNG of 2^31-1 squared", png(2**31 - 1, 2**31 - 1, b""), REFUSED)
    yield File("PNG of no width", png(0, 10, b""), REFUSED)
    yield File("PNG with too few rows", png(64, 64, zlib.compress(bytes(100))), UNREADABLE)
    yield File("PNG with too many rows", png(4, 4, zlib.compress(bytes(10**6))), ANY)
    yield File("PNG with a chunk of 2 GB", png(4, 4, b"")[:33] + b"\x7f\xff\xff\xffIDATx", REFUSED)
    yield File("GIF with a screen of 65535 squared", _gif_screen(65535), REFUSED)
    yield File("BMP of 2^31-1 squared", _bmp(2**31 - 1, 2**31 - 1), REFUSED)
    yield File("BMP of negative width", _bmp(-5, 5), REFUSED)
    yield File("JPEG of 65500 squared", _jpeg_of_size(65500), REFUSED)
    yield File("TIFF whose directory is beyond its end", b"II*\x00\xff\xff\xff\x7f", UNREADABLE)
    yield File("TIFF whose directory is its own next", _tiff_circle(), REFUSED)


def _odd(rng: Random) -> Iterator[File]:
    for size in ((1, 1), (1, 20_000), (20_000, 1), (3, 2)):
        picture = Image.new("RGB", size, (9, 200, 9))
        yield File(f"{size[0]}x{size[1]}", encode(picture, "PNG"), ANY)
    for mode, format_ in MODES.items():
        yield File(f"mode {mode}", encode(Image.new(mode, SIZE), format_), OK)
    yield File("16 bits", encode(Image.new("I;16", SIZE, 40_000), "PNG"), OK)
    yield File("floating-point TIFF", encode(Image.new("F", SIZE, float("nan")), "TIFF"), REFUSED)
    for name, picture in {"black": Image.new("RGB", SIZE), "noise": _noisy(rng)}.items():
        yield File(f"nothing but {name}", encode(picture, "JPEG"), OK)
    frames = [Image.new("RGB", SIZE, (n * 9 % 256, 0, 0)) for n in range(30)]
    for format_ in ("GIF", "PNG", "WEBP"):
        yield File(f"animated {format_}", _frames(frames, format_), ANY)
    yield File("TIFF of 30 pages", _frames(frames, "TIFF"), ANY)
    yield File("GIF of 3000 frames", _frames([Image.new("1", (2, 2))] * 3000, "GIF"), ANY)


def _metadata() -> Iterator[File]:
    """EXIF, ICC and comments: large, packed, or wrong."""
    for orientation in (0, 6, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield File(f"orientation {orientation}", encode(_plain(), "JPEG", exif=exif), OK)
    yield File("EXIF that is noise", encode(_plain(), "JPEG", exif=b"Exif\0\0" + b"\xa5" * 99), ANY)
    profile = b"\x00" * 500_000
    yield File("ICC profile of zeros", encode(_plain(), "JPEG", icc_profile=profile), ANY)
    packed = b"name\0\0" + zlib.compress(bytes(50_000_000), 9)
    yield File("ICC profile of 50 MB, packed", png_with_chunk(b"iCCP", packed), OK)
    packed = b"key\0\0" + zlib.compress(bytes(50_000_000), 9)
    yield File("comment of 50 MB, packed", png_with_chunk(b"zTXt", packed), OK)
    texts = PngImagePlugin.PngInfo()
    for number in range(2000):
        texts.add_text(f"key {number}", "x" * 100)
    yield File("2000 comments", encode(_plain(), "PNG", pnginfo=texts), ANY)
    segment = b"\xff\xe1\xff\xff" + bytes(65533)
    jpeg = encode(_plain(), "JPEG")
    yield File("JPEG with 2 MB of EXIF", jpeg[:2] + segment * 32 + jpeg[2:], ANY)


def png_bomb() -> File:
    """50,000 x 50,000 pixels in 60 KB."""
    content = png(50_000, 50_000, zlib.compress(bytes(60_000_000), 9))
    return File("PNG of 50000 squared", content, TOO_LARGE)


def scans_bomb(side: int, scans: int) -> File:
    """A progressive JPEG that says the same again and again: each scan costs a pass over all."""
    jpeg = encode(Image.new("RGB", (side, side), (9, 99, 9)), "JPEG", progressive=True)
    start = jpeg.index(b"\xff\xda")
    end = jpeg.index(b"\xff", start + 2)
    return File(
        f"JPEG with {scans} scans", jpeg[:start] + jpeg[start:end] * scans + jpeg[end:], ANY
    )


def encode(picture: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format_, **options)
    return file.getvalue()


def png(width: int, height: int, pixels: bytes) -> bytes:
    """Eight bits of RGB, whatever the size; `pixels` are packed already."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def png_with_chunk(kind: bytes, data: bytes) -> bytes:
    """A good picture with one chunk more behind its header."""
    content = encode(_plain(), "PNG")
    return content[:33] + _chunk(kind, data) + content[33:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _plain() -> Image.Image:
    return Image.new("RGB", SIZE, (9, 9, 200))


def _noisy(rng: Random) -> Image.Image:
    return Image.frombytes("RGB", SIZE, noise(rng, SIZE[0] * SIZE[1] * 3))


def _frames(frames: Sequence[Image.Image], format_: str) -> bytes:
    return encode(frames[0], format_, save_all=True, append_images=frames[1:])


def _gif_screen(side: int) -> bytes:
    small = encode(Image.new("P", (2, 2)), "GIF")
    return small[:6] + struct.pack("<HH", side, side) + small[10:]


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def _jpeg_of_size(side: int) -> bytes:
    jpeg = bytearray(encode(_plain(), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", side, side)
    return bytes(jpeg)


def _tiff_circle() -> bytes:
    return b"II*\x00" + struct.pack("<IHI", 8, 0, 8)
