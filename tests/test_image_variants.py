"""Every variant of a file gives the pixels that its format defines, or a sentence why not."""

import io
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import compress, crc32

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from service.errors import TooLarge, Unreadable
from service.limits import InputLimits
from service.model.preprocessing.image import ImagePreprocessing, ImagePreprocessor

Pixels = NDArray[np.uint8]
HEIGHT, WIDTH = 24, 32
SIZES = {1: "B", 2: "s", 3: "H", 4: "I", 16: "Q"}  # type of a TIFF's tag -> its struct format


def decode(payload: bytes, size: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[np.int_]:
    """Each pixel as the file has it: the model's size is the image's."""
    spec = {"modality": "image", "input": "pixels", "size": size, "resample": "nearest"}
    sample = ImagePreprocessor(ImagePreprocessing(**spec), InputLimits()).decode(payload)
    return sample.data.astype(int)


def encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def colours() -> Pixels:
    """Smooth gradients with all levels from dark to bright, none alike in two channels."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    red, green, blue = x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), (x + y) * 4
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def grey() -> Pixels:
    return colours()[..., 2]


def as_rgb(levels: Pixels) -> Pixels:
    return np.repeat(levels[..., None], 3, axis=-1)


def on_white(pixels: Pixels, alpha: NDArray[Any]) -> Pixels:
    opacity = alpha[..., None] / 255
    return (pixels * opacity + 255 * (1 - opacity)).round().astype(np.uint8)


def packed(levels: NDArray[Any], bits: int, order: str = ">") -> bytes:
    """uint or int [H, W, C] as rows of samples of so many bits, each row padded to a byte."""
    if bits >= 8 and bits != 12:
        kind = "if"[levels.dtype.kind == "f"] if levels.dtype.kind in "if" else "u"
        return levels.astype(f"{order}{kind}{bits // 8}").tobytes()
    rows = levels.reshape(len(levels), -1).astype(np.uint16)
    split = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(split.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


class Tiff(NamedTuple):
    """A TIFF, written by hand: one strip, or tiles of 16 x 16, a plane after the other or not."""

    samples: NDArray[Any]  # [H, W, C], already of the range that its bits have
    bits: int = 8
    photometric: int = 1
    kind: int = 1  # sample format: unsigned, signed, floating-point
    order: str = "<"
    planar: bool = False
    tiled: bool = False
    deflated: bool = False
    big: bool = False
    tags: Sequence[tuple[int, int, Sequence[int]]] = ()

    def encode(self) -> bytes:
        channels = self.samples.shape[-1]
        planes = np.split(self.samples, channels, -1) if self.planar else [self.samples]
        pieces = [
            packed(block, self.bits, self.order)
            for plane in planes
            for block in self._blocks(plane)
        ]
        if self.deflated:
            pieces = [compress(piece) for piece in pieces]
        start = 16 if self.big else 8
        places = [start + sum(map(len, pieces[:n])) for n in range(len(pieces))]
        sizes = [len(piece) for piece in pieces]
        tags = [
            (256, 4, [WIDTH]),
            (257, 4, [HEIGHT]),
            (258, 3, [self.bits] * channels),
            (259, 3, [8 if self.deflated else 1]),
            (262, 3, [self.photometric]),
            (277, 3, [channels]),
            (284, 3, [2 if self.planar else 1]),
            (339, 3, [self.kind] * channels),
            *self.tags,
        ]
        if self.tiled:
            tags += [(322, 3, [16]), (323, 3, [16]), (324, 4, places), (325, 4, sizes)]
        else:
            tags += [(273, 4, places), (278, 4, [HEIGHT]), (279, 4, sizes)]
        return self._assembled(b"".join(pieces), sorted(tags), start)

    def _blocks(self, plane: NDArray[Any]) -> Iterator[NDArray[Any]]:
        if not self.tiled:
            yield plane
            return
        padded = np.pad(plane, ((0, -HEIGHT % 16), (0, -WIDTH % 16), (0, 0)))
        for y in range(0, HEIGHT, 16):
            for x in range(0, WIDTH, 16):
                yield padded[y : y + 16, x : x + 16]

    def _assembled(self, pixels: bytes, tags: list[Any], start: int) -> bytes:
        word = self.order + ("Q" if self.big else "I")
        entry = struct.Struct(self.order + ("HHQ" if self.big else "HHI"))
        wide = struct.calcsize(word)
        directory = start + len(pixels) + len(pixels) % 2
        number = struct.pack(self.order + ("Q" if self.big else "H"), len(tags))
        behind = directory + len(number) + (entry.size + wide) * len(tags) + wide
        entries, more = b"", b""
        for tag, kind, values in tags:
            content = struct.pack(f"{self.order}{len(values)}{SIZES[kind]}", *values)
            if len(content) > wide:
                place, more = behind + len(more), more + content + bytes(len(content) % 2)
                content = struct.pack(word, place)
            entries += entry.pack(tag, kind, len(values)) + content.ljust(wide, b"\0")
        magic = {"<": b"II", ">": b"MM"}[self.order]
        first = struct.pack(self.order + "HHHQ", 43, 8, 0, directory)
        if not self.big:
            first = struct.pack(self.order + "HI", 42, directory)
        padding = bytes(len(pixels) % 2)
        return magic + first + pixels + padding + number + entries + struct.pack(word, 0) + more


def grey_tiffs() -> Iterator[tuple[str, bytes, Pixels]]:
    """All depths, signs, orders and directions of one channel."""
    for bits in (1, 2, 4, 8, 12, 16, 32):
        levels = grey().astype(np.int64)
        deep = levels >> (8 - bits) if bits < 8 else levels * (2**bits - 1) // 255
        shown = deep * 255 // (2**bits - 1) if bits < 8 else levels
        for order, inverted, signed, deflated in np.ndindex(2, 2, 2, 2):
            if bits not in (8, 16, 32) and (signed or (deflated and bits != 12)):
                continue
            stored = 2**bits - 1 - deep if inverted else deep
            stored = stored - 2 ** (bits - 1) if signed else stored
            name = f"grey {bits} {'II' if order == 0 else 'MM'}"
            name += " white is zero" * inverted + " signed" * signed + " deflated" * deflated
            tiff = Tiff(
                stored[..., None],
                bits,
                1 - inverted,
                1 + signed,
                "<>"[order],
                deflated=bool(deflated),
            )
            yield name, tiff.encode(), as_rgb(shown.astype(np.uint8))
    for deflated, tiled in ((True, False), (False, True), (True, True)):
        for bits in (8, 12, 16, 32):
            deep = grey().astype(np.int64) * (2**bits - 1) // 255
            tiff = Tiff(deep[..., None], bits, deflated=deflated, tiled=tiled)
            name = f"grey {bits}" + " deflated" * deflated + " tiled" * tiled
            yield name, tiff.encode(), as_rgb(grey())
    for limit in (8, 16):
        small = grey().astype(np.int64) * (2**limit - 1) // 255
        for kind in (1, 2):
            name = f"grey 32, values of {limit} bits, {('unsigned', 'signed')[kind - 1]}"
            yield name, Tiff(small[..., None], 32, kind=kind).encode(), as_rgb(grey())
    for bits in (16, 32, 64):
        tiff = Tiff(grey()[..., None] / np.float64(255), bits, kind=3)
        yield f"grey float {bits}", tiff.encode(), as_rgb(grey())
    tiff = Tiff(grey()[..., None].astype(np.uint64) << 56, 64)
    yield "grey 64", tiff.encode(), as_rgb(grey())
    yield "grey big", Tiff(grey()[..., None], big=True).encode(), as_rgb(grey())
    deep = grey().astype(np.int64)[..., None] * 257
    yield "grey 16 big MM", Tiff(deep, 16, order=">", big=True).encode(), as_rgb(grey())


def colour_tiffs() -> Iterator[tuple[str, bytes, Pixels]]:
    """Several channels: depth, order, planes, tiles, compression, alpha."""
    alpha = (colours()[..., 0].astype(int) * 3 // 4 + 40).astype(np.uint8)
    for bits, order, planar, tiled, deflated in np.ndindex(2, 2, 2, 2, 2):
        deep = colours().astype(np.uint16) * 257 if bits else colours()
        tiff = Tiff(
            deep, 16 if bits else 8, 2, 1, "<>"[order], bool(planar), bool(tiled), bool(deflated)
        )
        name = f"rgb {tiff.bits} {'II' if order == 0 else 'MM'}"
        name += " planar" * planar + " tiled" * tiled + " deflated" * deflated
        yield name, tiff.encode(), colours()
    for bits, meaning, planar, deflated in np.ndindex(2, 3, 2, 2):
        stored = np.dstack([colours(), alpha]).astype(np.uint16)
        if meaning == 1:  # associated: the colours are multiplied by it
            stored[..., :3] = stored[..., :3] * stored[..., 3:] // 255
        stored = stored * 257 if bits else stored
        tiff = Tiff(
            stored,
            16 if bits else 8,
            2,
            planar=bool(planar),
            deflated=bool(deflated),
            tags=[(338, 3, [meaning])],
        )
        name = f"rgb {tiff.bits} extra sample {meaning}" + " planar" * planar
        yield (
            name + " deflated" * deflated,
            tiff.encode(),
            (on_white(colours(), alpha) if meaning else colours()),
        )
    for bits, meaning in np.ndindex(2, 3):
        stored = np.dstack([grey(), alpha]).astype(np.uint16)
        if meaning == 1:
            stored[..., 0] = stored[..., 0] * stored[..., 1] // 255
        stored = stored * 257 if bits else stored
        tiff = Tiff(stored, 16 if bits else 8, tags=[(338, 3, [meaning])])
        expected = on_white(as_rgb(grey()), alpha) if meaning else as_rgb(grey())
        yield f"grey {tiff.bits} extra sample {meaning}", tiff.encode(), expected
    for bits in (8, 16):
        stored = np.dstack([255 - colours(), np.zeros_like(grey())]).astype(np.uint16)
        tiff = Tiff(stored * 257 if bits == 16 else stored, bits, 5)
        yield f"cmyk {bits}", tiff.encode(), colours()
        yield f"cmyk {bits} planar", tiff._replace(planar=True).encode(), colours()
        yield f"cmyk {bits} deflated", tiff._replace(deflated=True).encode(), colours()
    signed = Tiff(colours().astype(int) - 128, 8, 2, 2)
    yield "rgb 8 signed", signed.encode(), colours()
    yield "rgb 32", Tiff(colours().astype(np.uint32) << 24, 32, 2).encode(), colours()
    yield "rgb float", Tiff(colours() / np.float64(255), 32, 2, 3).encode(), colours()


def palette_tiffs() -> Iterator[tuple[str, bytes, Pixels]]:
    for bits in (1, 2, 4, 8):
        palette = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), np.uint8)
        index = grey() >> (8 - bits)
        for scale in (257, 1):  # a colour map has 16 bits; some programs write 8
            table = [(320, 3, [int(v) * scale for v in palette.T.ravel()])]
            for deflated in (False, True):
                tiff = Tiff(index[..., None], bits, 3, deflated=deflated, tags=table)
                name = f"palette {bits}" + " of 8 bits" * (scale == 1) + " deflated" * deflated
                yield name, tiff.encode(), palette[index]


def space_tiffs() -> Iterator[tuple[str, bytes, Pixels]]:
    """YCbCr and LAB."""
    ycbcr = np.asarray(Image.fromarray(colours()).convert("YCbCr"))
    full = [(530, 3, [1, 1])]
    yield "ycbcr 1 x 1", Tiff(ycbcr, 8, 6, tags=full).encode(), colours()
    yield "ycbcr 1 x 1 deflated", Tiff(ycbcr, 8, 6, tags=full, deflated=True).encode(), colours()
    yield "ycbcr 1 x 1 planar", Tiff(ycbcr, 8, 6, tags=full, planar=True).encode(), colours()
    flat = np.full_like(ycbcr, 1) * np.array([120, 90, 200], np.uint8)
    units = np.tile(np.array([120] * 4 + [90, 200], np.uint8), HEIGHT * WIDTH // 4)
    three = Tiff(units.reshape(HEIGHT, WIDTH // 2, 3), 8, 6, tags=[(530, 3, [2, 2])]).encode()
    yield "ycbcr 2 x 2", three, np.asarray(Image.fromarray(flat, "YCbCr").convert("RGB"))
    lab = Image.fromarray(colours() // 2 + 64).convert("LAB")
    stored = np.asarray(lab)
    yield "lab", Tiff(stored, 8, 8).encode(), colours() // 2 + 64


TIFFS = [*grey_tiffs(), *colour_tiffs(), *palette_tiffs(), *space_tiffs()]
# A rejection is an answer, too, but not for these: no kind may join them unnoticed.
REJECTED = {
    "grey float 16",
    "grey float 32",
    "grey float 64",
    "grey 64",
    "grey 16 big MM",
    "grey 16 extra sample 0",
    "grey 16 extra sample 1",
    "grey 16 extra sample 2",
    "rgb 8 signed",
    "rgb 32",
    "rgb float",
}
TOLERANCE = 3  # levels of 255: premultiplied alpha, and conversions between colour spaces


@pytest.mark.parametrize(("name", "payload", "expected"), TIFFS, ids=[name for name, *_ in TIFFS])
def test_a_tiff_is_read_as_its_tags_say(name: str, payload: bytes, expected: Pixels) -> None:
    if name in REJECTED:
        with pytest.raises(Unreadable, match=r"8 or 16 bits per channel|send the whole file"):
            decode(payload)
        return
    tolerance = 8 if name == "lab" else TOLERANCE
    assert np.abs(decode(payload) - expected).max() <= tolerance


def png(
    samples: NDArray[Any],
    depth: int,
    colour: int,
    chunks: Sequence[tuple[bytes, bytes]] = (),
    interlaced: bool = False,
) -> bytes:
    """A PNG of uint[H, W, C], written by hand: no filters, and Adam7's passes if interlaced."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2)]
        passes += [(0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for top, left, down, across in passes:
        part = samples[top::down, left::across]
        line = packed(part, depth)
        width = len(line) // len(part)
        rows += b"".join(b"\0" + line[n * width : (n + 1) * width] for n in range(len(part)))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, interlaced)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def fixed(number: float) -> bytes:
    """A number as a colour profile writes it."""
    return struct.pack(">i", round(number * 65536))


def profile(space: bytes, connection: bytes, tags: Sequence[tuple[bytes, bytes]]) -> bytes:
    """An ICC profile of version 2."""
    white = b"".join(map(fixed, (0.9642, 1, 0.8249)))
    text = b"desc" + struct.pack(">II", 0, 5) + b"test\0" + bytes(78)
    tags = [(b"desc", text), (b"wtpt", b"XYZ \0\0\0\0" + white), *tags]
    table, content, place = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, value in tags:
        table += name + struct.pack(">II", place + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    size = struct.pack(">I", place + len(content))
    header = size + b"\0\0\0\0\2\x40\0\0" + kind + space + connection
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white
    return header.ljust(128, b"\0") + table + content


def curve(gamma: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"


# Columns are red, green and blue in XYZ under D50.
TO_XYZ = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
P3_TO_XYZ = np.array([[0.5151, 0.292, 0.1571], [0.2412, 0.6922, 0.0666], [-0.001, 0.0419, 0.7841]])


def wide_profile(gamma: float = 2.2) -> bytes:
    """The primaries of Display P3."""
    names = zip((b"rXYZ", b"gXYZ", b"bXYZ"), P3_TO_XYZ.T, strict=True)
    primaries = [(name, b"XYZ \0\0\0\0" + b"".join(map(fixed, xyz))) for name, xyz in names]
    tones = [(name, curve(gamma)) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return profile(b"RGB ", b"XYZ ", [*primaries, *tones])


def srgb_levels(light: NDArray[Any]) -> Pixels:
    light = light.clip(0, 1)
    levels = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    result: Pixels = (levels * 255).round().astype(np.uint8)
    return result


def from_wide(pixels: Pixels, gamma: float = 2.2) -> Pixels:
    """By the definition: to light, to XYZ, to the light of sRGB, to levels."""
    light = (pixels / 255) ** gamma
    return srgb_levels(light @ (np.linalg.inv(TO_XYZ) @ P3_TO_XYZ).T)


def ink_profile() -> bytes:
    """CMYK of which each ink takes a quarter of the lightness; a table with two points a side."""
    lightness = [255 - 63 * bin(inks).count("1") for inks in range(16)]
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0))
    table += b"".join(fixed(n) for n in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    ramp = bytes(range(256))
    table += ramp * 4 + bytes(v for light in lightness for v in (light, 128, 128)) + ramp * 3
    return profile(b"CMYK", b"Lab ", [(b"A2B0", table)])


def pngs() -> Iterator[tuple[str, bytes, Pixels]]:
    """Every depth and colour type, its transparent colour, interlaced or not."""
    for interlaced in (False, True):
        suffix = " interlaced" * interlaced
        for depth in (1, 2, 4, 8, 16):
            top = 2**depth - 1
            levels = (grey().astype(int) * 257 + np.arange(WIDTH) % 3) >> (16 - depth)
            shown = (levels * 255 // top if depth < 8 else levels >> (depth - 8)).astype(np.uint8)
            name = f"grey {depth}{suffix}"
            samples = levels[..., None].astype(np.uint16)
            yield name, png(samples, depth, 0, (), interlaced), as_rgb(shown)
            hidden = int(levels[5, 7])
            holes = as_rgb(np.where(levels == hidden, 255, shown).astype(np.uint8))
            chunks = [(b"tRNS", struct.pack(">H", hidden))]
            yield f"{name} transparent", png(samples, depth, 0, chunks, interlaced), holes
        for depth in (8, 16):
            scale = 257 if depth == 16 else 1
            deep = colours().astype(np.uint16) * scale
            name = f"rgb {depth}{suffix}"
            yield name, png(deep, depth, 2, (), interlaced), colours()
            deep[2, 3] = deep[5, 7]
            deep[2, 3, 0] ^= 1  # not the transparent colour, though its upper bytes are alike
            chunks = [(b"tRNS", struct.pack(">HHH", *deep[5, 7]))]
            shown = (deep // scale).astype(np.uint8)
            shown[5, 7] = 255
            yield f"{name} transparent", png(deep, depth, 2, chunks, interlaced), shown
            alpha = colours()[..., 1]
            both = np.dstack([colours(), alpha]).astype(np.uint16) * scale
            yield (
                f"rgba {depth}{suffix}",
                png(both, depth, 6, (), interlaced),
                on_white(colours(), alpha),
            )
            both = np.dstack([grey(), alpha]).astype(np.uint16) * scale
            yield (
                f"grey, alpha {depth}{suffix}",
                png(both, depth, 4, (), interlaced),
                on_white(as_rgb(grey()), alpha),
            )
        for depth in (1, 2, 4, 8):
            palette = np.random.default_rng(depth).integers(0, 256, (2**depth, 3), np.uint8)
            index = grey() >> (8 - depth)
            chunks = [(b"PLTE", palette.tobytes())]
            name = f"palette {depth}{suffix}"
            yield name, png(index[..., None], depth, 3, chunks, interlaced), palette[index]
            opacity = np.linspace(0, 255, 2**depth).astype(np.uint8)
            chunks.append((b"tRNS", opacity.tobytes()))
            yield (
                f"{name} transparent",
                png(index[..., None], depth, 3, chunks, interlaced),
                (on_white(palette[index], opacity[index])),
            )
    for gamma in (1.0, 0.45455, 0.55):
        chunks = [(b"gAMA", struct.pack(">I", round(gamma * 100_000)))]
        tone = 1.0 if gamma == 0.45455 else 1 / (gamma * 2.2)
        shown = ((colours() / 255) ** tone * 255).round().astype(np.uint8)
        yield f"gamma {gamma}", png(colours(), 8, 2, chunks), shown
        both = np.dstack([colours(), colours()[..., 1]])
        yield f"gamma {gamma} alpha", png(both, 8, 6, chunks), on_white(shown, both[..., 3])
        chunks.append((b"sRGB", b"\0"))
        yield f"gamma {gamma} beside sRGB", png(colours(), 8, 2, chunks), colours()


def damaged_pngs() -> Iterator[tuple[str, bytes, Pixels]]:
    """The pixels are all there; something else is not."""
    good = png(colours(), 8, 2)
    text = chunk(b"tEXt", b"Comment\0hello")
    wrong = text[:-4] + b"oops"
    yield "text with a wrong checksum", good[:33] + wrong + good[33:], colours()
    yield "text behind the pixels", good[:-12] + wrong + good[-12:], colours()
    for name in (b"transparency", b"icc_profile", b"gamma", b"exif", b"srgb", b"interlace"):
        named = chunk(b"tEXt", name + b"\0hello")
        yield f"text called {name.decode()}", good[:33] + named + good[33:], colours()
    black = np.zeros_like(colours())
    yield "as black as missing pixels", png(black, 8, 2), black
    clear = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    yield "as clear as missing pixels", png(clear, 8, 6), np.full_like(black, 255)
    yield "of 16 bits, as black as missing pixels", png(black[..., :1].astype(int), 16, 0), black
    yield "of 1 bit, as black as missing pixels", png(black[..., :1], 1, 0), black
    yield "no end", good[:-12], colours()
    yield "half an end", good[:-6], colours()
    yield "half a chunk behind the pixels", good[:-12] + text[:15], colours()
    yield "an empty IDAT that is cut off", good[:-12] + b"\0\0\x70\0IDAT", colours()
    for kind in (b"eXIf", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"acTL"):
        odd = chunk(kind, b"\xff" * 3)
        yield f"a damaged {kind.decode()}", good[:33] + odd + good[33:], colours()
    yield (
        "a profile that is none",
        (png(colours(), 8, 2, [(b"iCCP", b"x\0\0" + compress(b"no profile" * 99))])),
        colours(),
    )


def profiled() -> Iterator[tuple[str, bytes, Pixels]]:
    """A colour profile in every container that can hold one."""
    wide, inks = wide_profile(), ink_profile()
    picture, shown = Image.fromarray(colours()), from_wide(colours())
    forms: dict[str, dict[str, Any]] = {
        "PNG": {},
        "TIFF": {},
        "WEBP": {"lossless": True, "exact": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
        "JPEG": {"quality": 100, "subsampling": 0},
    }
    for form, options in forms.items():
        yield f"{form}, P3", encode(picture, form, icc_profile=wide, **options), shown
        broken = encode(picture, form, icc_profile=wide[:200], **options)
        yield f"{form}, half a profile", broken, colours()
        inky = encode(picture, form, icc_profile=inks, **options)
        yield f"{form}, the profile of a printer", inky, colours()
    alpha = colours()[..., 1]
    both = picture.copy()
    both.putalpha(Image.fromarray(alpha))
    for form in ("PNG", "TIFF", "WEBP"):
        lossless = {"lossless": True, "exact": True} if form == "WEBP" else {}
        payload = encode(both, form, icc_profile=wide, **lossless)
        yield f"{form}, P3 and alpha", payload, on_white(shown, alpha)
    yield (
        "grey with a profile of RGB",
        encode(Image.fromarray(grey()), "PNG", icc_profile=wide_profile(1.8)),
        from_wide(as_rgb(grey()), 1.8),
    )
    tone = profile(b"GRAY", b"XYZ ", [(b"kTRC", curve(1.5))])
    toned = srgb_levels((as_rgb(grey()) / 255) ** 1.5)
    for form in ("PNG", "TIFF", "JPEG"):
        options = {"quality": 100} if form == "JPEG" else {}
        payload = encode(Image.fromarray(grey()), form, icc_profile=tone, **options)
        yield f"{form}, grey with its own tones", payload, toned
    samples = np.dstack([grey(), alpha]).astype(np.uint16) * 257
    chunks = [(b"iCCP", b"x\0\0" + compress(tone))]
    yield (
        "grey 16 and alpha with its own tones",
        png(samples, 16, 4, chunks),
        on_white(toned, alpha),
    )
    yield "colours with a profile of grey", encode(picture, "PNG", icc_profile=tone), colours()
    yield (
        "16 bits, P3",
        png(colours().astype(np.uint16) * 257, 16, 2, [(b"iCCP", b"x\0\0" + compress(wide))]),
        shown,
    )
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    corners = np.stack([x // 16, x // 8 % 2, y // 12, y // 6 % 2], axis=-1)
    lightness = 100 * (255 - 63 * corners.sum(-1)) / 255
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    separations = Image.fromarray((corners * 255).astype(np.uint8), "CMYK")
    for form in ("TIFF", "JPEG"):
        options = {"quality": 100} if form == "JPEG" else {}
        payload = encode(separations, form, icc_profile=inks, **options)
        yield f"{form}, CMYK with its profile", payload, as_rgb(srgb_levels(light))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "sRGB", encode(picture, "PNG", icc_profile=srgb), colours()


def others() -> Iterator[tuple[str, bytes, Pixels]]:
    """JPEG, GIF, BMP, WebP, AVIF, HEIC and icons."""
    picture = Image.fromarray(colours())
    levels = Image.fromarray(grey())
    best: dict[str, Any] = {"quality": 100, "subsampling": "4:4:4"}
    for progressive in (False, True):
        for blocks in (0, 3):
            options = {**best, "progressive": progressive, "restart_marker_blocks": blocks}
            name = "JPEG" + " progressive" * progressive + " with restarts" * bool(blocks)
            payload = encode(picture, "JPEG", **options)
            yield name, payload, colours()
            yield f"{name}, no end", payload[:-2], colours()
            yield f"{name}, half an end", payload[:-1], colours()
            yield f"{name}, a second image for the end", payload[:-2] + payload, colours()
            trailer = b"\0\0\1\x0aImage_UTC_Data" + bytes(500)
            yield f"{name}, a trailer for the end", payload[:-2] + trailer, colours()
            yield f"{name}, a trailer behind the end", payload + trailer, colours()
            grey_one = encode(levels, "JPEG", **options)
            yield f"{name}, grey, no end", grey_one[:-2], as_rgb(grey())
        exif = b"\xff\xe1\0\x10Exif\0\0MM\0\x2a\xff\xff\xff\xff"
        yield f"{name}, EXIF that leads nowhere", payload[:2] + exif + payload[2:], colours()
        exif = b"\xff\xe1\0\x0cExif\0\0noth"
        yield f"{name}, EXIF that is none", payload[:2] + exif + payload[2:], colours()
    flat = np.full_like(colours(), 128)
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2}):
        payload = encode(Image.fromarray(flat), "JPEG", **options)
        yield f"JPEG, as grey as missing pixels, {options}", payload, flat
        grey_one = encode(Image.fromarray(flat[..., 0]), "JPEG", **options)
        yield f"JPEG of one channel, as grey as missing pixels, {options}", grey_one, flat
        more = encode(Image.fromarray(flat), "MPO", save_all=True, append_images=[picture])
        yield f"MPO, as grey as missing pixels, {options}", more, flat
    inks = np.dstack([255 - colours(), np.zeros_like(grey())])
    payload = encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)
    yield "JPEG, CMYK", payload, colours()
    yield "JPEG, CMYK, no end", payload[:-2], colours()
    second = Image.new("RGB", picture.size, "red")
    film: dict[str, Any] = {"save_all": True, "append_images": [second] * 2}
    yield "MPO", encode(picture, "MPO", save_all=True, append_images=[second], **best), colours()
    yield "APNG", encode(picture, "PNG", **film), colours()
    palette = picture.quantize(256)
    looked_up = np.asarray(palette.convert("RGB"))
    yield "GIF", encode(palette, "GIF"), looked_up
    yield "GIF, several frames", encode(palette, "GIF", **film), looked_up
    small = encode(palette, "GIF")
    yield (
        "GIF, a frame smaller than its canvas",
        small[:8] + b"\x30\0" + small[10:],
        np.vstack([looked_up, np.full_like(looked_up, 255)]),
    )
    hidden = palette.getpixel((5, 7))
    holes = np.where((np.asarray(palette) == hidden)[..., None], 255, looked_up).astype(np.uint8)
    yield "GIF, transparent", encode(palette, "GIF", transparency=hidden), holes
    for mode in ("1", "L", "P", "RGB"):
        shown = np.asarray(picture.convert(mode).convert("RGB"))
        yield f"BMP {mode}", encode(picture.convert(mode), "BMP"), shown
    both = picture.copy()
    alpha = colours()[..., 1]
    both.putalpha(Image.fromarray(alpha))
    laid = on_white(colours(), alpha)
    for form, options in {"WEBP": {"lossless": True, "exact": True}, "AVIF": best}.items():
        yield form, encode(picture, form, **options), colours()
        yield f"{form}, alpha", encode(both, form, **options), laid
        yield f"{form}, grey", encode(levels, form, **options), as_rgb(grey())
        yield f"{form}, several frames", encode(picture, form, **film, **options), colours()
    stored = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # members of Image.Transpose
    for form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        options = {"lossless": True} if form == "WEBP" else {} if form in ("PNG", "TIFF") else best
        for orientation, turn in stored.items():
            tags = Image.Exif()
            tags[0x0112] = orientation
            turned = picture if turn is None else picture.transpose(Image.Transpose(turn))
            payload = encode(turned, form, exif=tags, **options)
            yield f"{form}, orientation {orientation}", payload, colours()
    icon = both.resize((32, 32), Image.Resampling.NEAREST).crop((0, 0, WIDTH, HEIGHT))
    for form in ("png", "bmp"):
        payload = encode(icon, "ICO", sizes=[icon.size], bitmap_format=form)
        expected = on_white(np.asarray(icon)[..., :3], np.asarray(icon)[..., 3])
        yield f"ICO, {form}", payload, expected
    for path in sorted((Path(__file__).parent / "heic").iterdir()):
        yield (
            f"HEIC, {path.stem}",
            path.read_bytes(),
            (on_white(colours(), colours()[..., 0]) if path.stem == "rgba" else colours()),
        )


OTHERS = [
    (f"{kind}: {name}", payload, expected)
    for kind, variants in {
        "png": pngs(),
        "damaged png": damaged_pngs(),
        "profile": profiled(),
        "other": others(),
    }.items()
    for name, payload, expected in variants
]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # as the service does
@pytest.mark.parametrize(("name", "payload", "expected"), OTHERS, ids=[name for name, *_ in OTHERS])
def test_a_variant_gives_the_pixels_that_its_format_defines(
    name: str, payload: bytes, expected: Pixels
) -> None:
    lossy, converted = "AVIF" in name or "JPEG" in name, "P3" in name
    tolerance = (16 if converted else 8) if lossy else 5
    height, width, _ = expected.shape
    assert np.abs(decode(payload, (height, width)) - expected).max() <= tolerance


def as_high(payload: bytes, height: int) -> bytes:
    """A PNG that declares so many rows."""
    header = payload[16:20] + struct.pack(">I", height) + payload[24:29]
    return payload[:8] + chunk(b"IHDR", header) + payload[33:]


def number(payload: bytes, place: bytes, behind: int, *values: int) -> bytes:
    """With other numbers of 32 bits behind each occurrence of something."""
    width, start = 4 * len(values), 0
    while (start := payload.find(place, start)) >= 0:
        start += len(place) + behind
        payload = (
            payload[:start] + struct.pack(f">{len(values)}I", *values) + payload[start + width :]
        )
    return payload


def unreadable() -> Iterator[tuple[str, bytes]]:
    """Pixels are missing, the header lies, or the format is none of those that are read."""
    picture = Image.fromarray(colours())
    large = picture.resize((256, 192))
    jpegs: dict[str, dict[str, Any]] = {
        "JPEG": {},
        "JPEG progressive": {"progressive": True},
        "JPEG with restarts": {"restart_marker_blocks": 4},
    }
    for name, options in jpegs.items():
        payload = encode(large, "JPEG", quality=90, **options)
        start = payload.index(b"\xff\xda") + 20
        for tenths in range(1, 10):
            cut = payload[: start + (len(payload) - start) * tenths // 10]
            yield f"{name}, {tenths} tenths", cut
            yield f"{name}, {tenths} tenths and a second image", cut + payload
            if "progressive" not in name or tenths == 1:  # else all is there, but coarse
                yield f"{name}, {tenths} tenths and an end", cut + b"\xff\xd9"
        yield f"{name}, all but 4 bytes and the end", payload[:-6]
    payload = encode(large, "JPEG", progressive=True)
    for n in range(1, payload.count(b"\xff\xda")):
        place = [n for n in range(len(payload)) if payload.startswith(b"\xff\xda", n)][n]
        table = payload.rfind(b"\xff\xc4", 0, place)
        yield f"JPEG progressive, {n} scans", payload[:table]
    for form in ("PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "ICO"):
        payload = encode(large if form != "GIF" else large.quantize(64), form)
        for tenths in (1, 5, 9):
            yield f"{form}, {tenths} tenths", payload[: len(payload) * tenths // 10]
    heic = (Path(__file__).parent / "heic/rgb.heic").read_bytes()
    for tenths in (1, 5, 9):
        yield f"HEIC, {tenths} tenths", heic[: len(heic) * tenths // 10]
    for width, height in ((16, 16), (300, 24), (32, 25), (60_000, 60_000)):
        yield f"HEIC, declared {width} x {height}", number(heic, b"ispe", 4, width, height)
    for curve_number in (16, 18):  # PQ, HLG
        high = heic.replace(b"nclx\0\1\0\x0d", b"nclx\0\x09\0" + bytes([curve_number]))
        yield f"HEIC, transfer characteristics {curve_number}", high
    avif = encode(large, "AVIF")
    for width, height in ((64, 48), (60_000, 60_000)):
        yield f"AVIF, declared {width} x {height}", number(avif, b"ispe", 4, width, height)
    good = png(colours(), 8, 2)
    yield "PNG, header with a wrong checksum", good[:29] + b"oops" + good[33:]
    yield "PNG, a row more", as_high(good, HEIGHT + 1)
    yield "PNG interlaced, a row more", as_high(png(colours(), 8, 2, (), True), HEIGHT + 1)
    yield (
        "PNG, alpha, a row more",
        as_high(png(np.dstack([colours()] * 2)[..., :4], 8, 6), HEIGHT + 1),
    )
    yield "PNG 16, a row more", as_high(png(grey()[..., None].astype(int), 16, 0), HEIGHT + 1)
    yield "PNG without pixels", good[:33] + good[-12:]
    icon = encode(large.resize((32, 32)), "ICO", sizes=[(32, 32)], bitmap_format="bmp")
    place = icon.index(b"\x28\0\0\0")
    yield (
        "icon that is larger than declared",
        (icon[: place + 4] + struct.pack("<II", 30_000, 60_000) + icon[place + 12 :]),
    )
    yield "icon without images", icon[:4] + b"\0\0"
    baseline = encode(picture, "JPEG")
    frame = baseline.index(b"\xff\xc0")
    high = baseline[: frame + 5] + struct.pack(">H", 2 * HEIGHT) + baseline[frame + 7 :]
    yield "JPEG, twice as high", high
    yield "JPEG of 12 bits", baseline[: frame + 4] + b"\x0c" + baseline[frame + 5 :]
    yield "JPEG 2000", encode(picture, "JPEG2000")
    yield "JPEG XL", b"\xff\x0a\x7f\x11" + bytes(99)
    yield "SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "PDF", b"%PDF-1.7\n" + bytes(99)
    yield "PPM", encode(picture, "PPM")
    yield "TGA", encode(picture, "TGA")


UNREADABLE = list(unreadable())


@pytest.mark.parametrize(("name", "payload"), UNREADABLE, ids=[name for name, _ in UNREADABLE])
def test_damaged_and_lying_files_are_rejected_with_what_to_change(
    name: str, payload: bytes
) -> None:
    assert name
    with pytest.raises((Unreadable, TooLarge), match=r"send|save|limit"):
        decode(payload)


def test_files_of_cameras_and_other_programs_look_as_other_decoders_show_them(
    shared_data: Path,
) -> None:
    """Each as 4 x 4 mean colours, by libjpeg-turbo, libpng, FFmpeg and others without Pillow.

    No colours stand for a file that is to be rejected: bombs, cut ones, JPEG 2000 and JPEG XL.
    """
    folder = shared_data / "media/pictures"
    if not folder.is_dir():
        pytest.skip("the folder of other programs' images is not here")
    spec = {"modality": "image", "input": "pixels", "size": (256, 256), "fit": "stretch"}
    image = ImagePreprocessor(ImagePreprocessing(**spec, resample="box"), InputLimits())
    references = json.loads((Path(__file__).parent / "data/pictures.json").read_text())
    wrong = {}
    for path in sorted(folder.iterdir()):
        try:
            pixels = image.decode(path.read_bytes()).data
        except (Unreadable, TooLarge) as error:
            if references[path.name]:
                wrong[path.name] = str(error)
            continue
        found = pixels.reshape(4, 64, 4, 64, 3).mean((1, 3), dtype=float).ravel()
        expected = bytes.fromhex(references[path.name] or "")
        if len(expected) != len(found) or np.abs(found - list(expected)).max() > 6:
            wrong[path.name] = "other colours"
    assert not wrong
