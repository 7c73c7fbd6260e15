"""Colours: pixels of any depth, sign, colour space and profile become RGB on a white ground."""

import io
import itertools
from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageCms, TiffImagePlugin
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    II,
    MM,
    OPEN_INFO,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from service.errors import Unreadable
from service.runtime.tensors import Array

UNSIGNED, SIGNED = 1, 2  # sample formats of a TIFF
TiffImagePlugin.READ_LIBTIFF = True  # Pillow's own reader confuses 16 bits in separate planes
for order, direction in itertools.product((II, MM), (0, 1)):  # white is zero, or black
    for sign, bits, mode, stored in (  # libtiff delivers samples in this machine's byte order
        (SIGNED, 8, "L", "L" if direction else "L;I"),
        (UNSIGNED, 12, "I;16", "I;12"),
        (UNSIGNED, 16, "I;16", "I;16N"),
        (SIGNED, 16, "I", "I;16NS"),
        (UNSIGNED, 32, "I", "I;32N"),
        (SIGNED, 32, "I", "I;32NS"),
    ):
        OPEN_INFO[order, direction, (sign,), 1, (bits,), ()] = (mode, stored)

LARGEST_PROFILE = 4 * 2**20  # bytes; a larger one is ignored. A printer's has 0.5 to 3 MB
SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # of a profile -> mode of its pixels
SRGB = ImageCms.createProfile("sRGB")
SAME = 2  # levels of 255 by which a profile may differ from sRGB and still count as sRGB
DISPLAY_GAMMA = 2.2


def eight_bits(
    picture: Image.Image, payload: bytes, shown: tuple[int, int, int, int] | None = None
) -> Image.Image:
    """The pixels with 8 bits a channel and straight alpha: L, LA, RGB, RGBA, CMYK or LAB.

    Args:
        shown: the box that a GIF's frame covers; around it the image is transparent.
    """
    if shown and shown != (0, 0, *picture.size):
        whole = Image.new("RGBA", picture.size)
        whole.paste(picture.crop(shown).convert("RGBA"), shown[:2])
        return whole
    if picture.mode == "F":
        raise Unreadable(
            "the samples are floating-point numbers, whose range is unknown;"
            " save the image with 8 or 16 bits a channel"
        )
    if picture.mode.startswith("I"):
        return _deep_grey(picture)
    if isinstance(picture, TiffImageFile):
        picture = _corrected(picture)
    transparency = picture.info.get("transparency")
    if not isinstance(transparency, int | bytes | tuple):  # a PNG's text of this name, or none
        picture.info.pop("transparency", None)
    elif payload.startswith(b"\x89PNG") and picture.mode in ("L", "RGB"):
        return _transparent_png(picture, payload)
    if picture.mode == "La":
        return picture.convert("LA")
    if picture.has_transparency_data:
        picture = picture if picture.mode in ("LA", "RGBA") else picture.convert("RGBA")
        opaque = picture.getchannel("A").getextrema() == (255, 255)
        return picture.convert(picture.mode.removesuffix("A")) if opaque else picture
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode == "CMYK" and "icc_profile" in picture.info:
        return picture  # converted by the profile when it is small
    return picture if picture.mode in ("L", "RGB", "LAB") else picture.convert("RGB")


def on_white(picture: Image.Image, info: dict[Any, Any]) -> Image.Image:
    """RGB in the sRGB colour space, with what is transparent laid on white.

    Args:
        info: what the file said beside its pixels; its colour profile, or its gamma, counts.
    """
    profile, gamma = info.get("icc_profile"), info.get("gamma")
    if isinstance(profile, bytes) and len(profile) <= LARGEST_PROFILE:
        coloured = _in_srgb(picture, profile)
    elif isinstance(gamma, float) and "srgb" not in info:
        coloured = _with_gamma(picture, gamma)
    else:
        coloured = picture
    if picture.mode in ("LA", "RGBA"):
        paper = Image.new("RGB", picture.size, "white")
        paper.paste(coloured.convert("RGB"), mask=picture.getchannel("A"))
        return paper
    return coloured if coloured.mode == "RGB" else coloured.convert("RGB")


def _deep_grey(picture: Image.Image) -> Image.Image:
    """Grey of 12, 16 or 32 bits, scaled to 8; with a PNG's transparent level as alpha."""
    levels: Array = np.asarray(picture)
    bits, sign, inverted = 16, UNSIGNED, False
    if isinstance(picture, TiffImageFile):
        tags = picture.tag_v2
        bits, sign = tags[BITSPERSAMPLE][0], tags.get(SAMPLEFORMAT, (UNSIGNED,))[0]
        inverted = tags.get(PHOTOMETRIC_INTERPRETATION) == 0
    if bits == 32:
        # Most programs write 8 or 16 bits into 32; by all 32 they are black.
        levels = levels if sign == SIGNED else levels.view(np.uint32)
        if levels.min() >= 0 and levels.max() < 65536:
            bits, sign = (8 if levels.max() < 256 else 16), UNSIGNED
    grey = (levels >> (bits - 8)).astype(np.uint8) ^ (128 if sign == SIGNED else 0)
    shown = Image.fromarray(255 - grey if inverted else grey)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        shown.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return shown


def _corrected(picture: TiffImageFile) -> Image.Image:
    """Apply the sign of 8-bit samples, and colour maps of 8 bits instead of 16; Pillow does not."""
    tags = picture.tag_v2
    if picture.mode == "L" and tags.get(SAMPLEFORMAT, (UNSIGNED,))[0] == SIGNED:
        return picture.point(lambda level: level ^ 128)
    if picture.mode in ("P", "PA") and max(tags[COLORMAP]) < 256:
        picture.putpalette(bytes(tags[COLORMAP]), "RGB;L")
    return picture


def _transparent_png(picture: Image.Image, payload: bytes) -> Image.Image:
    """The level or colour that a PNG declares transparent, at the depth of its file, as alpha."""
    depth, declared = payload[24], picture.info.pop("transparency")
    top = 2**depth - 1
    levels = [level & top for level in (declared if isinstance(declared, tuple) else (declared,))]
    hidden = _where(picture, [level * 255 // top if depth < 16 else level >> 8 for level in levels])
    if depth == 16:  # Pillow keeps the upper bytes of three channels; in the other order, the lower
        with Image.open(io.BytesIO(payload), formats=("PNG",)) as lower:
            [tile] = lower.tile
            lower.tile = [tile._replace(args="RGB;16L")]
            hidden = ImageChops.darker(hidden, _where(lower, [level & 255 for level in levels]))
    picture.putalpha(ImageChops.invert(hidden))
    return picture


def _where(picture: Image.Image, levels: Sequence[int]) -> Image.Image:
    """White where each channel has its level, else black."""
    masks = [
        channel.point([255 * (level == wanted) for level in range(256)])
        for channel, wanted in zip(picture.split(), levels, strict=True)
    ]
    return reduce(ImageChops.darker, masks)


def _in_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """The colours without alpha, converted; unchanged if the profile is broken or does not fit."""
    mode = SPACES.get(profile[16:20], "")
    colours = picture.mode.removesuffix("A")
    if (colours == "L" and mode == "RGB") or (
        colours == "RGB" and mode == "L" and _is_grey(picture)
    ):
        colours = mode
    if colours != mode or not (transform := _transform(profile, mode)):
        return picture
    return transform.apply(picture.convert(mode)) or picture


def _is_grey(picture: Image.Image) -> bool:
    """Whether the three colours are alike in each pixel: Pillow reads deep grey with alpha so."""
    red, green, blue = (picture.getchannel(name).tobytes() for name in "RGB")
    return red == green == blue


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From the profile to sRGB; None if it is broken or differs from sRGB too little to matter."""
    try:
        transform = ImageCms.buildTransform(io.BytesIO(profile), SRGB, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    sides = range(0, 256, 51)
    colours = [(red, green, blue) for red in sides for green in sides for blue in sides]
    sample = Image.new("RGB", (len(colours), 1))
    sample.putdata(colours)
    sample = sample.convert(mode)
    before, after = (np.asarray(i, int) for i in (sample.convert("RGB"), transform.apply(sample)))
    return transform if np.abs(before - after).max() > SAME else None


def _with_gamma(picture: Image.Image, gamma: float) -> Image.Image:
    """The levels as an sRGB display shows them; all but a few files have its own gamma."""
    exponent = 1 / (gamma * DISPLAY_GAMMA) if gamma > 0 else 1.0
    if abs(exponent - 1) < 0.05:
        return picture
    table = [round(255 * (level / 255) ** exponent) for level in range(256)]
    coloured = picture.convert(picture.mode.removesuffix("A"))
    return coloured.point(table * len(coloured.getbands()))
