"""Colours: converts pixels of any depth, sign and colour space to sRGB on a white background."""

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
TiffImagePlugin.READ_LIBTIFF = True  # Pillow's own reader fails on 16 bits in separate planes
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

LARGEST_PROFILE = 4 * 2**20  # bytes; larger ones are ignored. A printer's profile has 0.5 to 3 MB
SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # a profile's colour space -> pixel mode
SRGB = ImageCms.createProfile("sRGB")
SAME = 2  # levels of 255; a profile that differs from sRGB by no more counts as sRGB
DISPLAY_GAMMA = 2.2


def eight_bits(
    image: Image.Image, payload: bytes, shown: tuple[int, int, int, int] | None = None
) -> Image.Image:
    """The pixels with 8 bits per channel and straight alpha: L, LA, RGB, RGBA, CMYK or LAB.

    Args:
        shown: the box of a GIF's frame; outside it the image is transparent.
    """
    if shown and shown != (0, 0, *image.size):
        whole = Image.new("RGBA", image.size)
        whole.paste(image.crop(shown).convert("RGBA"), shown[:2])
        return whole
    if image.mode == "F":
        raise Unreadable(
            "the pixels are floating-point numbers of an unknown range;"
            " save the image with 8 or 16 bits per channel"
        )
    if image.mode.startswith("I"):
        return _deep_grey_as_8_bits(image)
    if isinstance(image, TiffImageFile):
        image = _corrected(image)
    transparency = image.info.get("transparency")
    if not isinstance(transparency, int | bytes | tuple):  # missing, or a PNG's text of this name
        image.info.pop("transparency", None)
    elif payload.startswith(b"\x89PNG") and image.mode in ("L", "RGB"):
        return _transparent_png(image, payload)
    if image.mode == "La":
        return image.convert("LA")
    if image.has_transparency_data:
        image = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
        opaque = image.getchannel("A").getextrema() == (255, 255)
        return image.convert(image.mode.removesuffix("A")) if opaque else image
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "CMYK" and "icc_profile" in image.info:
        return image  # `on_white` converts it by its profile after resizing
    return image if image.mode in ("L", "RGB", "LAB") else image.convert("RGB")


def on_white(image: Image.Image, info: dict[Any, Any]) -> Image.Image:
    """RGB in the sRGB colour space, with transparent pixels on white.

    Args:
        info: the file's metadata; its colour profile or its gamma is used.
    """
    profile, gamma = info.get("icc_profile"), info.get("gamma")
    if isinstance(profile, bytes) and len(profile) <= LARGEST_PROFILE:
        coloured = _in_srgb(image, profile)
    elif isinstance(gamma, float) and "srgb" not in info:
        coloured = _gamma_corrected(image, gamma)
    else:
        coloured = image
    if image.mode in ("LA", "RGBA"):
        paper = Image.new("RGB", image.size, "white")
        paper.paste(coloured.convert("RGB"), mask=image.getchannel("A"))
        return paper
    return coloured if coloured.mode == "RGB" else coloured.convert("RGB")


def _deep_grey_as_8_bits(image: Image.Image) -> Image.Image:
    levels: Array = np.asarray(image)
    bits, sign, inverted = 16, UNSIGNED, False
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        bits, sign = tags[BITSPERSAMPLE][0], tags.get(SAMPLEFORMAT, (UNSIGNED,))[0]
        inverted = tags.get(PHOTOMETRIC_INTERPRETATION) == 0
    if bits == 32:
        # Most programs store 8 or 16 bits in 32; scaled from 32 bits they are black.
        levels = levels if sign == SIGNED else levels.view(np.uint32)
        if levels.min() >= 0 and levels.max() < 65536:
            bits, sign = (8 if levels.max() < 256 else 16), UNSIGNED
    grey = (levels >> (bits - 8)).astype(np.uint8) ^ (128 if sign == SIGNED else 0)
    shown = Image.fromarray(255 - grey if inverted else grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        shown.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return shown


def _corrected(image: TiffImageFile) -> Image.Image:
    """Fix what Pillow ignores: signed 8-bit samples, and colour maps of 8 bits instead of 16."""
    tags = image.tag_v2
    if image.mode == "L" and tags.get(SAMPLEFORMAT, (UNSIGNED,))[0] == SIGNED:
        return image.point(lambda level: level ^ 128)
    if image.mode in ("P", "PA") and max(tags[COLORMAP]) < 256:
        image.putpalette(bytes(tags[COLORMAP]), "RGB;L")
    return image


def _transparent_png(image: Image.Image, payload: bytes) -> Image.Image:
    """A PNG with its transparent level or colour as alpha, compared at the depth of the file."""
    depth, declared = payload[24], image.info.pop("transparency")
    top = 2**depth - 1
    levels = [level & top for level in (declared if isinstance(declared, tuple) else (declared,))]
    hidden = _mask_of_levels(
        image, [level * 255 // top if depth < 16 else level >> 8 for level in levels]
    )
    if depth == 16:  # Pillow keeps only the upper bytes of three channels, so read the lower ones
        with Image.open(io.BytesIO(payload), formats=("PNG",)) as lower:
            [tile] = lower.tile
            lower.tile = [tile._replace(args="RGB;16L")]
            hidden = ImageChops.darker(
                hidden, _mask_of_levels(lower, [level & 255 for level in levels])
            )
    image.putalpha(ImageChops.invert(hidden))
    return image


def _mask_of_levels(image: Image.Image, levels: Sequence[int]) -> Image.Image:
    masks = [
        channel.point([255 * (level == wanted) for level in range(256)])
        for channel, wanted in zip(image.split(), levels, strict=True)
    ]
    return reduce(ImageChops.darker, masks)


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The converted colours without alpha; unchanged if the profile is broken or does not fit."""
    mode = SPACES.get(profile[16:20], "")
    colours = image.mode.removesuffix("A")
    if (colours == "L" and mode == "RGB") or (colours == "RGB" and mode == "L" and _is_grey(image)):
        colours = mode
    if colours != mode or not (transform := _transform(profile, mode)):
        return image
    return transform.apply(image.convert(mode)) or image


def _is_grey(image: Image.Image) -> bool:
    """Whether all pixels are grey: Pillow reads 16-bit grey with alpha as RGB."""
    red, green, blue = (image.getchannel(name).tobytes() for name in "RGB")
    return red == green == blue


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform to sRGB; None if the profile is broken or hardly differs from sRGB."""
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


def _gamma_corrected(image: Image.Image, gamma: float) -> Image.Image:
    exponent = 1 / (gamma * DISPLAY_GAMMA) if gamma > 0 else 1.0
    if abs(exponent - 1) < 0.05:  # nearly all files
        return image
    table = [round(255 * (level / 255) ** exponent) for level in range(256)]
    coloured = image.convert(image.mode.removesuffix("A"))
    return coloured.point(table * len(coloured.getbands()))
