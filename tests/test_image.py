"""Pictures of every kind become the same pixels."""

import io
import itertools
import struct
import subprocess
import sys
from typing import Any
from zlib import compress, crc32

import numpy as np
import pytest
from PIL import Image

from service.errors import TooLarge, Unreadable
from service.limits import InputLimits
from service.model.preprocessing.image import (
    LONGEST_SIDE,
    MAX_METADATA,
    MAX_PROFILES,
    MAX_SCANS,
    METERED,
    ImagePreprocessing,
    ImagePreprocessor,
)
from service.runtime.tensors import Array

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def preprocessor(limits: InputLimits | None = None, **spec: Any) -> ImagePreprocessor:
    spec = {"modality": "image", "input": "pixels", "size": (8, 8), **spec}
    return ImagePreprocessor(ImagePreprocessing(**spec), limits or InputLimits())


def quarters(side: int = 64) -> Image.Image:
    """Red, green / blue, white."""
    picture = Image.new("RGB", (side, side))
    half = side // 2
    for number, colour in enumerate((RED, GREEN, BLUE, WHITE)):
        left, top = number % 2 * half, number // 2 * half
        picture.paste(colour, (left, top, left + half, top + half))
    return picture


def encode(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def corners(pixels: Array) -> list[list[int]]:
    """The four corner pixels, in reading order."""
    return [pixels[y, x].tolist() for y in (0, -1) for x in (0, -1)]


def assert_quarters(pixels: Array, tolerance: int = 0) -> None:
    expected = np.array([RED, GREEN, BLUE, WHITE])
    assert np.abs(np.array(corners(pixels), int) - expected).max() <= tolerance


@pytest.mark.parametrize(
    ("form", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("GIF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 90}, 8),
        ("JPEG", {"quality": 95}, 4),
        ("JPEG", {"quality": 95, "progressive": True}, 4),
    ],
)
def test_every_format_gives_the_same_pixels(
    form: str, options: dict[str, Any], tolerance: int
) -> None:
    sample = preprocessor().decode(encode(quarters(), form, **options))
    assert sample.data.shape == (8, 8, 3)
    assert sample.data.dtype == np.uint8
    assert_quarters(sample.data, tolerance)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(form: str, orientation: int) -> None:
    stored = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    picture = quarters()
    for turn in stored[orientation]:
        picture = picture.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    sample = preprocessor().decode(encode(picture, form, exif=exif))
    assert_quarters(sample.data, tolerance=16)


def test_a_turned_picture_is_cropped_as_people_see_it() -> None:
    wide = Image.new("RGB", (90, 30), RED)
    wide.paste(GREEN, (30, 0, 60, 30))
    wide.paste(BLUE, (60, 0, 90, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown standing
    lying = wide.transpose(Image.Transpose.ROTATE_90)  # what a person sees is wide
    sample = preprocessor(size=(4, 12), resample="nearest").decode(encode(lying, "PNG", exif=exif))
    assert sample.data[:, :4].reshape(-1, 3).tolist() == [list(RED)] * 16
    assert sample.data[:, 8:].reshape(-1, 3).tolist() == [list(BLUE)] * 16


def test_greyscale_and_black_and_white() -> None:
    grey = preprocessor().decode(encode(Image.new("L", (9, 9), 77), "PNG"))
    assert np.unique(grey.data).tolist() == [77]
    white = preprocessor().decode(encode(Image.new("1", (9, 9), 1), "PNG"))
    assert np.unique(white.data).tolist() == [255]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(form: str) -> None:
    levels = np.full((9, 9), 0x80FF, np.uint16)
    sample = preprocessor().decode(encode(Image.fromarray(levels), form))
    assert np.unique(sample.data).tolist() == [0x80]


def test_a_palette_is_looked_up() -> None:
    sample = preprocessor().decode(encode(quarters().quantize(4), "PNG"))
    assert_quarters(sample.data)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_transparency_lies_on_white(form: str) -> None:
    picture = quarters().convert("RGBA")
    picture.paste((0, 0, 0, 0), (32, 32, 64, 64))
    sample = preprocessor().decode(encode(picture, form, lossless=True))
    assert_quarters(sample.data)


def test_half_transparency_is_half_white() -> None:
    sample = preprocessor().decode(encode(Image.new("RGBA", (9, 9), (0, 0, 0, 128)), "PNG"))
    assert np.unique(sample.data).tolist() == [127]


def test_a_transparent_palette_colour_lies_on_white() -> None:
    picture = Image.new("P", (9, 9), 1)
    picture.putpalette([*RED, 0, 0, 0])
    sample = preprocessor().decode(encode(picture, "GIF", transparency=1))
    assert np.unique(sample.data).tolist() == [255]


def test_cmyk_becomes_rgb() -> None:
    sample = preprocessor().decode(encode(quarters().convert("CMYK"), "JPEG", quality=95))
    assert_quarters(sample.data, tolerance=8)


def test_the_centre_is_kept_and_the_crop_narrows_it() -> None:
    wide = Image.new("RGB", (300, 100), RED)
    wide.paste(GREEN, (100, 0, 200, 100))
    wide.paste(BLUE, (140, 40, 160, 60))
    payload = encode(wide, "PNG")
    whole = preprocessor(resample="nearest").decode(payload).data
    assert corners(whole) == [list(GREEN)] * 4
    narrow = preprocessor(resample="nearest", crop=0.2).decode(payload).data
    assert corners(narrow) == [list(BLUE)] * 4


def test_whatever_the_size_the_box_stays_within_the_picture() -> None:
    image = preprocessor(size=(224, 224), resample="nearest")
    for width, height in itertools.product(range(211, 340, 7), range(211, 340, 7)):
        payload = encode(Image.new("1", (width, height)), "PNG")
        assert image.decode(payload).data.shape == (224, 224, 3)


def test_stretching_keeps_the_whole_picture() -> None:
    wide = Image.new("RGB", (300, 100), RED)
    wide.paste(BLUE, (150, 0, 300, 100))
    sample = preprocessor(resample="nearest", fit="stretch").decode(encode(wide, "PNG"))
    assert corners(sample.data) == [list(RED), list(BLUE)] * 2


def test_a_large_jpeg_is_decoded_small_and_gives_the_same_answer() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    large = Image.fromarray(noise).resize((3200, 2400), Image.Resampling.BICUBIC)
    small = preprocessor(size=(24, 32)).decode(encode(large, "JPEG", quality=95)).data
    exact = preprocessor(size=(24, 32)).decode(encode(large, "PNG")).data
    difference = np.abs(small.astype(int) - exact.astype(int))
    assert difference.mean() < 2


def test_normalised_pixels_can_be_turned_back() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    foreign = preprocessor(layout="NCHW", normalise={"mean": mean, "std": std})
    sample = foreign.decode(encode(quarters(), "PNG"))
    assert sample.data.shape == (3, 8, 8)
    assert sample.data.dtype == np.float32
    red = (np.array(RED) / 255 - mean) / std
    np.testing.assert_allclose(sample.data[:, 0, 0], red, rtol=1e-5)
    assert_quarters(foreign.restore(sample))


def test_half_precision_graphs_get_half_precision() -> None:
    half = preprocessor(normalise={"mean": (0, 0, 0), "std": (1, 1, 1), "dtype": "float16"})
    assert half.decode(encode(quarters(), "PNG")).data.dtype == np.float16


def test_samples_are_stacked_into_one_feed() -> None:
    image = preprocessor()
    samples = [image.decode(encode(Image.new("RGB", (9, 9), c), "PNG")) for c in (RED, BLUE)]
    feeds = image.collate(samples)
    assert list(feeds) == ["pixels"]
    assert feeds["pixels"].shape == (2, 8, 8, 3)
    assert feeds["pixels"][1, 0, 0].tolist() == list(BLUE)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"GIF89a",
        b"\xff\xd8\xff\xe0 no more",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encode(quarters(), "PNG")[:80],
        encode(quarters(), "JPEG")[:400],
        encode(quarters(), "TIFF")[:200],
        encode(quarters(), "WEBP")[:60],
        encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
        encode(quarters(), "PPM"),
    ],
)
def test_what_is_no_picture_is_unreadable(payload: bytes) -> None:
    with pytest.raises(Unreadable):
        preprocessor().decode(payload)


def test_a_picture_beyond_the_limit_is_refused_from_its_header() -> None:
    header_only = encode(Image.new("1", (2000, 2000)), "PNG")[:60]
    with pytest.raises(TooLarge, match="2000 x 2000"):
        preprocessor(InputLimits(pixels=3_999_999)).decode(header_only)


@pytest.mark.parametrize("size", [(1, LONGEST_SIDE + 1), (LONGEST_SIDE + 1, 1)])
def test_a_side_beyond_the_limit_is_refused_from_the_header(size: tuple[int, int]) -> None:
    header_only = encode(Image.new("1", size), "PNG")[:60]
    with pytest.raises(TooLarge, match=f"{LONGEST_SIDE:,} per side"):
        preprocessor().decode(header_only)


def tiled(side: int, kind: int = 4, big: bool = False) -> bytes:
    """A grey TIFF of 16 x 16 in one deflated tile; `kind` is the type of the tile's sides."""
    pixels = compress(bytes(side * side), 9)
    tags = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(322, kind, side), (323, kind, side), (324, 4, 0), (325, 4, len(pixels))]
    first = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(tags)) if big else b"II*\0\10\0\0\0\12\0"
    entry = "<HHQQ" if big else "<HHII"
    ending = bytes(8 if big else 4)
    place = len(first) + struct.calcsize(entry) * len(tags) + len(ending)
    entries = (struct.pack(entry, t, k, 1, place if t == 324 else v) for t, k, v in tags)
    return first + b"".join(entries) + ending + pixels


@pytest.mark.parametrize("big", [False, True])
def test_a_tile_beyond_the_limit_is_refused_however_small_the_picture(big: bool) -> None:
    limited = preprocessor(InputLimits(pixels=1024))
    assert not limited.decode(tiled(32, big=big)).data.any()
    with pytest.raises(TooLarge, match="tile has 48 x 48"):
        limited.decode(tiled(48, big=big))


@pytest.mark.parametrize("kind", [17, 18])  # signed, and an offset: 64 bits each
def test_a_tile_of_a_type_that_pillow_overlooks_is_unreadable(kind: int) -> None:
    with pytest.raises(Unreadable, match="unusual type"):
        preprocessor(InputLimits(pixels=1024)).decode(tiled(48, kind, big=True))


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """One chunk of a PNG."""
    return (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc32(kind + content))
    )


def with_header(form: str, extra: bytes) -> bytes:
    """A small picture with something more between its header and its pixels."""
    payload = encode(quarters(8).quantize(4) if form == "GIF" else quarters(8), form)
    place = {"PNG": 33, "JPEG": 2, "GIF": payload.rfind(b"\x2c")}[form]
    return payload[:place] + extra + payload[place:]


@pytest.mark.parametrize(
    ("form", "piece"),
    [
        ("PNG", chunk(b"teSt")),
        ("PNG", chunk(b"tEXt", b"a\0b")),
        ("JPEG", b"\xff\xe5\0\2"),
        ("JPEG", b"\xff\xfe\0\3a"),
        ("JPEG", b"\xff" * 20),
        ("GIF", b"\x21\xfe\1a\0"),
        ("GIF", b"\x21\xfe" + b"\1a" * 10 + b"\0"),
    ],
)
def test_a_picture_in_endless_pieces_is_not_walked_to_its_end(form: str, piece: bytes) -> None:
    few = with_header(form, piece * 50)
    assert preprocessor().decode(few).data.shape == (8, 8, 3)
    endless = with_header(form, piece * (METERED // len(piece)))
    with pytest.raises(TooLarge, match="pieces"):
        preprocessor().decode(endless)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_metadata_beyond_the_limit_is_refused(form: str) -> None:
    piece = {
        "PNG": chunk(b"teSt", bytes(65_000)),
        "JPEG": b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527),
    }
    assert preprocessor().decode(with_header(form, piece[form] * 5)).data.shape == (8, 8, 3)
    with pytest.raises(TooLarge, match="metadata"):
        preprocessor().decode(with_header(form, piece[form] * (MAX_METADATA // 65_000 + 1)))


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_compressed_metadata_that_bursts_is_ignored(kind: bytes) -> None:
    bomb = (b"name\0\1\0\0\0" if kind == b"iTXt" else b"name\0\0") + compress(bytes(2**24), 9)
    assert_quarters(preprocessor().decode(with_header("PNG", chunk(kind, bomb))).data)


def test_a_picture_has_so_many_colour_profiles() -> None:
    profile = chunk(b"iCCP", b"name\0\0" + compress(bytes(1000)))
    many = with_header("PNG", profile * MAX_PROFILES)
    assert_quarters(preprocessor().decode(many).data)
    with pytest.raises(TooLarge, match="colour profiles"):
        preprocessor().decode(with_header("PNG", profile * (MAX_PROFILES + 1)))


def test_damaged_tags_are_not_written_to_the_log() -> None:
    """In a process of its own, as pytest has its own way with warnings."""
    tags = b"".join(struct.pack("<HHII", 40_000 + n, 2, 1000, 1000) for n in range(9))
    exif = b"II*\0\10\0\0\0\11\0" + tags + bytes(4)
    code = """if True:
        import sys
        from tests.test_image import preprocessor
        preprocessor().decode(sys.stdin.buffer.read())
    """
    payload = with_header("PNG", chunk(b"eXIf", exif))
    command = [sys.executable, "-W", "always", "-c", code]
    done = subprocess.run(command, input=payload, capture_output=True, check=True)
    assert b"PIL" not in done.stderr


def test_a_progressive_picture_has_so_many_scans() -> None:
    payload = encode(quarters(), "JPEG", progressive=True)
    last = payload[payload.rindex(b"\xff\xc4") : -2]  # its table and its scan, which may come again
    more = payload[:-2] + last * 10 + payload[-2:]
    assert_quarters(preprocessor().decode(more).data, tolerance=16)
    with pytest.raises(TooLarge, match="scans"):
        preprocessor().decode(payload[:-2] + last * MAX_SCANS + payload[-2:])


EMPTY_SCAN = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 63, 0) + b"\0\0"


def with_scans(payload: bytes, number: int) -> bytes:
    """A JPEG with so many empty scans before its first."""
    start = payload.index(b"\xff\xda")
    return payload[:start] + EMPTY_SCAN * number + payload[start:]


def test_a_sequential_picture_has_so_many_scans_too() -> None:
    payload = encode(quarters(), "JPEG")
    assert preprocessor().decode(with_scans(payload, MAX_SCANS - 1)).data.shape == (8, 8, 3)
    with pytest.raises(TooLarge, match="scans"):
        preprocessor().decode(with_scans(payload, MAX_SCANS))


def test_a_picture_of_several_has_so_many_scans_too() -> None:
    first, second = quarters(), Image.new("RGB", (64, 64))
    payload = encode(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert_quarters(preprocessor().decode(payload).data, tolerance=4)
    decoy = payload[payload.index(b"\xff\xda") :][:14]  # where the end of a header is looked for
    with pytest.raises(TooLarge, match="scans"):
        preprocessor().decode(with_scans(payload, MAX_SCANS) + decoy)


def test_no_scan_is_decoded_behind_one_of_all_components() -> None:
    payload = encode(quarters(), "JPEG")
    with pytest.raises(Unreadable, match="damaged"):
        preprocessor().decode(payload[:-2] + EMPTY_SCAN * MAX_SCANS + payload[-2:])


def test_what_only_looks_like_scans_is_none() -> None:
    payload = encode(quarters(), "JPEG", quality=95)
    look = b"\xff\xda" * (MAX_SCANS + 1)
    comment = b"\xff\xfe" + struct.pack(">H", len(look) + 2) + look
    for harmless in (payload + look, payload[:2] + comment + payload[2:]):
        assert_quarters(preprocessor().decode(harmless).data, tolerance=4)


def test_frames_that_are_only_declared_are_not_looked_for() -> None:
    declared = with_header("PNG", chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))
    assert preprocessor().decode(declared).data.shape == (8, 8, 3)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_many_frames_only_the_first_is_decoded(form: str) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in (RED, GREEN) * 2]
    animation = encode(
        frames[0],
        form,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if form == "WEBP" else {}),
    )
    assert preprocessor().decode(animation).data[0, 0].tolist() == list(RED)


def test_a_tiff_whose_frames_run_in_a_circle_is_one_picture() -> None:
    payload = bytearray(encode(quarters(), "TIFF"))
    first = int.from_bytes(payload[4:8], "little")
    entries = int.from_bytes(payload[first : first + 2], "little")
    following = first + 2 + 12 * entries
    payload[following : following + 4] = payload[4:8]
    assert_quarters(preprocessor().decode(bytes(payload)).data)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_extreme_shapes_are_pictures_too(size: tuple[int, int]) -> None:
    sample = preprocessor().decode(encode(Image.new("RGB", size, GREEN), "PNG"))
    assert np.unique(sample.data.reshape(-1, 3), axis=0).tolist() == [list(GREEN)]
