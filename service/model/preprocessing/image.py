"""Image preprocessing: an image file becomes RGB pixels in the model's size."""

import io
import struct
import warnings
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pi_heif
from PIL import AvifImagePlugin, ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from service.errors import TooLarge, Unreadable
from service.model.formats.av1 import coded_sizes
from service.model.formats.colours import eight_bits, on_white
from service.model.formats.containers import ICON, check_complete, largest_icon, repaired
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.specs import Frozen, Positive, PreprocessingSpec, Share
from service.model.types import Sample
from service.runtime.tensors import Array, TensorSpec

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "ICO")
KINDS = {b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"II": "TIFF", b"MM": "TIFF", b"GIF": "GIF"}
READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC or ICO"

Image.MAX_IMAGE_PIXELS = None  # replaced by `_check_sizes`
warnings.filterwarnings("ignore", module="PIL")  # 30,000 damaged tags wrote 6 MB into the log
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # several images are decoded in parallel instead
pi_heif.register_heif_opener(
    decode_threads=1, thumbnails=False, depth_images=False, aux_images=False
)

# Limits that no normal image exceeds. Without them, a decoder can be busy for seconds to hours.
LONGEST_SIDE = 65_535  # of a JPEG; the resampler's weights grow with it
MAX_SCANS = 100  # of a JPEG; each passes over all pixels, and progressive files have about ten
METERED = 2**20  # bytes; parsing a smaller file takes a few tenths of a second at most
MAX_METADATA = 8 * 2**20  # bytes before the pixels: colour profile, EXIF, XMP
TILE_TYPES = {False: (3, 4), True: (3, 4, 16)}  # of a TIFF, a BigTIFF: unsigned integers
HIGH_RANGE = (16, 18)  # transfer characteristics of ITU-T H.273: PQ, HLG
MAX_PROFILES = 4  # of a PNG; a valid one has one at most, and Pillow inflates each to 1 MiB
PIECE = 800  # bytes of MAX_METADATA that each read costs, which allows 10,000 reads

# EXIF orientation -> the transposition that turns the stored pixels upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDES_SWAPPED = (5, 6, 7, 8)


Triple = tuple[float, float, float]


class Normalise(Frozen):
    """Normalises pixels for a graph that does not do it itself: (p / 255 - mean) / std."""

    mean: Triple
    std: Triple
    dtype: Literal["float32", "float16"] = "float32"


class ImagePreprocessing(PreprocessingSpec):
    """Parameters for images: RGB pixels, uint8 in 0..255 unless `normalise` is given."""

    modality: Literal["image"]
    input: str  # the graph's input: uint8 or float, [N, ...]
    size: tuple[Positive, Positive]  # height, width of the graph's input
    crop: Share = 1.0  # share of the largest centred box of that shape
    fit: Literal["crop", "stretch"] = "crop"  # stretch: the whole image, shape ignored
    resample: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bicubic"
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    normalise: Normalise | None = None


class ImagePreprocessor(Preprocessor):
    """Decode, crop, resize, turn upright; normalise if the graph does not do it itself."""

    modality = "image"
    plural = "images"
    spec_type = ImagePreprocessing
    media_types = tuple(
        f"image/{kind}"
        for kind in ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heic", "x-icon")
    )

    spec: ImagePreprocessing

    @cached_property
    def _resample(self) -> Image.Resampling:
        return Image.Resampling[self.spec.resample.upper()]

    def inputs(self) -> dict[str, TensorSpec]:
        dtype = self.spec.normalise.dtype if self.spec.normalise else "uint8"
        height, width = self.spec.size
        hwc, chw = (None, height, width, 3), (None, 3, height, width)
        return {self.spec.input: TensorSpec(dtype, hwc if self.spec.layout == "NHWC" else chw)}

    def decode(self, payload: bytes) -> Sample:
        """One image as uint8[H, W, 3], or in the manifest's dtype and layout."""
        pixels = self._pixels(payload)
        if normalise := self.spec.normalise:
            mean, std = np.array([normalise.mean, normalise.std], np.float32)
            pixels = ((pixels / np.float32(255) - mean) / std).astype(normalise.dtype)
        if self.spec.layout == "NCHW":
            pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return Sample(pixels)

    def preview(self, payload: bytes) -> bytes:
        """The image rebuilt from the model's input, as PNG."""
        file = io.BytesIO()
        Image.fromarray(self.restore(self.decode(payload))).save(file, "PNG")
        return file.getvalue()

    def restore(self, sample: Sample) -> Array:
        """A sample converted back to pixels for display: uint8[H, W, 3]."""
        pixels = sample.data
        if self.spec.layout == "NCHW":
            pixels = pixels.transpose(1, 2, 0)
        if normalise := self.spec.normalise:
            mean, std = np.array([normalise.mean, normalise.std], np.float32)
            pixels = (pixels * std + mean) * 255
        restored: Array = pixels.round().clip(0, 255).astype(np.uint8)
        return restored

    def _pixels(self, payload: bytes) -> Array:
        try:
            if payload.startswith(ICON):
                payload = largest_icon(payload)
            if payload[4:12] == b"ftypavis":  # an image sequence: read its still image
                payload = payload[:8] + b"avif" + payload[12:]
            try:
                return self._decoded(payload)
            except (TooLarge, Unreadable):
                raise
            except Exception:  # decoders raise any kind of error for damaged files
                if not (whole := repaired(payload)):
                    raise
                return self._decoded(whole)
        except (TooLarge, Unreadable):
            raise
        except UnidentifiedImageError as error:
            raise Unreadable(_unidentified(payload)) from error
        except Exception as error:
            raise Unreadable(f"the image is damaged: {error}; send the whole file") from error

    def _decoded(self, payload: bytes) -> Array:
        _check_profiles(payload)
        file = _MeteredFile(payload) if len(payload) > METERED else io.BytesIO(payload)
        with Image.open(file, formats=FORMATS) as image:
            if isinstance(file, _MeteredFile):
                file.allowance += 2 * len(payload)  # for the pixels, in pieces of a KB or more
            self._check_sizes(image, payload)
            _check_scans(image, payload, file.tell())
            if isinstance(image, TiffImageFile):
                _check_tags(payload)
            if image.format == "HEIF":
                _check_range(image.info.get("nclx_profile") or {})
            self._reduce_while_decoding(image)
            if isinstance(image, JpegImageFile):
                image.decodermaxblock = len(payload)  # in one piece, not in pieces of 64 KB
            shown = image.tile[0].extents if image.format == "GIF" else None
            image.load()
            check_complete(image, payload)
            orientation = _orientation(image)
            channels = eight_bits(image, payload, shown)
            transparent = channels.mode in ("LA", "RGBA")
            if transparent:  # opaque images are converted after resizing, because it is cheaper
                channels = on_white(channels, image.info)
            upright = self._crop_and_resize(channels, orientation in SIDES_SWAPPED)
            if not transparent:
                upright = on_white(upright, image.info)
            if orientation in UPRIGHT:
                upright = upright.transpose(UPRIGHT[orientation])
            return np.asarray(upright)

    def _check_sizes(self, image: Image.Image, payload: bytes) -> None:
        """A TIFF's tiles and an AVIF's coded images can be far larger than the image."""
        sizes = [("image", image.size), ("tile", _tile_size(image))]
        if image.format == "AVIF":
            sizes += [("coded image", size) for size in coded_sizes(payload)]
        for what, (width, height) in sizes:
            if max(width, height) > LONGEST_SIDE or width * height > self._limits.pixels:
                raise TooLarge(
                    f"the {what} has {width} x {height} pixels;"
                    f" the limits are {self._limits.pixels:,} pixels and {LONGEST_SIDE:,} per side"
                )
            if what == "coded image" and max(width, height) > 2 * max(image.size):
                raise Unreadable("the AVIF declares fewer pixels than it has; save it again")

    def _reduce_while_decoding(self, image: Image.Image) -> None:
        """Decode a JPEG at a fraction of its size, down to 1/8, if that is still large enough."""
        needed = round(max(self.spec.size) / self.spec.crop)
        image.draft(None, (needed, needed))

    def _crop_and_resize(self, image: Image.Image, sides_swapped: bool) -> Image.Image:
        height, width = reversed(self.spec.size) if sides_swapped else self.spec.size
        kept_width, kept_height = float(image.width), float(image.height)
        if self.spec.fit == "crop":
            scale = min(image.width / width, image.height / height)
            kept_width, kept_height = scale * width, scale * height
        # Rounding must not move the box outside the image, so both margins are at least 0.
        across = max(0.0, (image.width - kept_width * self.spec.crop) / 2)
        down = max(0.0, (image.height - kept_height * self.spec.crop) / 2)
        box = (across, down, image.width - across, image.height - down)
        return image.resize((width, height), self._resample, box)


class _MeteredFile(io.BytesIO):
    """An image file that limits how many bytes a parser reads, and in how many pieces.

    Pillow parses chunks, segments and blocks one by one, in Python, without a limit: 20 MB of empty
    ones took 5 s, and 60 MB of EXIF 17 s.
    """

    allowance = MAX_METADATA  # bytes

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if size != -1:  # a WebP is read in one piece
            self.allowance -= len(piece) + PIECE
            if self.allowance < 0:
                raise TooLarge(
                    f"the image has more than {MAX_METADATA:,} bytes of metadata,"
                    " or too many pieces; save it without metadata"
                )
        return piece


def _check_profiles(payload: bytes) -> None:
    """Count the profiles of a PNG before Pillow opens the file and inflates them."""
    if payload.startswith(b"\x89PNG") and payload.count(b"iCCP") > MAX_PROFILES:
        raise TooLarge(f"the image has more than {MAX_PROFILES} colour profiles; save it again")


def _tile_size(image: Image.Image) -> tuple[int, int]:
    if not isinstance(image, TiffImageFile):
        return 0, 0
    return image.tag_v2.get(TILEWIDTH, 0), image.tag_v2.get(TILELENGTH, 0)


def _check_range(colours: dict[str, Any]) -> None:
    """Refuse HDR by the transfer curve of a HEIC. A HEIC with a colour profile declares none."""
    if colours.get("transfer_characteristics") in HIGH_RANGE:
        raise Unreadable("the image has high dynamic range (PQ or HLG); save it as sRGB")


def _check_tags(payload: bytes) -> None:
    """Refuse tile sizes in signed or 64-bit numbers: libtiff reads them, Pillow does not."""
    order, big = "<" if payload.startswith(b"II") else ">", 43 in payload[2:4]
    place = struct.unpack_from(order + ("Q" if big else "I"), payload, 8 if big else 4)[0]
    number = struct.Struct(order + ("Q" if big else "H"))
    entry = struct.Struct(order + ("HH16x" if big else "HH8x"))
    [count] = number.unpack_from(payload, place)
    place += number.size
    count = min(count, (len(payload) - place) // entry.size)  # the last ones can be cut off
    for tag, kind in entry.iter_unpack(payload[place : place + count * entry.size]):
        if tag in (TILEWIDTH, TILELENGTH) and kind not in TILE_TYPES[big]:
            raise Unreadable("the image's tile sizes have an unusual type; save it again")


# The start of a scan with 1 to 4 components, with the only length that libjpeg accepts. The marker
# alone also occurs in a film after an image, once per 64 KB.
SCAN_STARTS = [
    b"\xff\xda\0" + bytes((6 + 2 * components, components)) for components in (1, 2, 3, 4)
]


def _check_scans(image: Image.Image, payload: bytes, opened: int) -> None:
    """Limit the scans of a JPEG; baseline files can have many scans, too.

    If the first scan has all components, as in nearly all files, libjpeg ignores other scans. The
    search is skipped then: it takes 1 ms per MB, with the interpreter's lock held.

    Args:
        opened: Pillow's position in the file, at the end of the first scan's header.
    """
    if type(image) is JpegImageFile and not image.info.get("progressive"):  # not an MPO
        whole = SCAN_STARTS[image.layers - 1]
        if payload.startswith(whole, opened - len(whole) - 2 * image.layers - 3):
            return
    if image.format not in ("JPEG", "MPO") or payload.count(SCAN_STARTS[0][:2]) <= MAX_SCANS:
        return
    if sum(payload.count(start) for start in SCAN_STARTS) > MAX_SCANS:
        raise TooLarge(f"the image has more than {MAX_SCANS} scans; save it again")


def _unidentified(payload: bytes) -> str:
    kind = next((name for start, name in KINDS.items() if payload.startswith(start)), "")
    if b"ftyp" in payload[4:8] and b"jp2" not in payload[8:12]:
        kind = "HEIC or AVIF"
    if not kind:
        return f"not a supported image; send {READABLE}"
    return (
        f"the {kind} is damaged, or a variant that is not supported;"
        " save it again with 8 or 16 bits per channel, or as a PNG"
    )


def _orientation(image: Image.Image) -> int:
    """The orientation in EXIF or the container; 1, which is upright, if the EXIF is broken."""
    try:
        orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # parsers raise any kind of error for damaged metadata
        return 1
    return orientation
