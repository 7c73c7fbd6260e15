"""Arrays: pixels become a PNG and a wave becomes a WAV, without loss and without a library."""

import struct
import zlib
from typing import TYPE_CHECKING, Any

from sensorium_client.errors import NotSendable

if TYPE_CHECKING:  # whoever has an array has numpy
    from numpy.typing import NDArray

PNG_COLOURS = {1: 0, 3: 2, 4: 6}  # channels -> grey, RGB, RGBA
PNG_EFFORT = 1  # of 9: the network is near, and the service decodes it at once
WAV_FORMATS = {"f": (3, "<f4"), "i": (1, "<i2")}  # kind of number -> code of the format, dtype
MAX_CHANNELS = 8


def encode_png(pixels: "NDArray[Any]") -> bytes:
    """uint8[height, width], or with 3 or 4 channels behind, as a PNG.

    Raises:
        NotSendable: it is of another shape or type.
    """
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != "uint8" or pixels.ndim not in (2, 3) or channels not in PNG_COLOURS:
        raise NotSendable(
            f"pixels must be uint8[height, width], or with 1, 3 or 4 channels behind;"
            f" this is {_describe(pixels)}"
        )
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, PNG_COLOURS[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # each begins with its filter: none
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, PNG_EFFORT)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def encode_wav(wave: "NDArray[Any]", rate: int) -> bytes:
    """float[samples] in -1..1 or int16[samples], or with channels behind, as a WAV.

    Raises:
        NotSendable: it is of another shape or type.
    """
    channels = wave.shape[1] if wave.ndim == 2 else 1
    if not (wave.dtype.kind == "f" or wave.dtype == "int16") or wave.ndim not in (1, 2):
        raise NotSendable(
            "a wave must be float[samples] in -1..1 or int16[samples], or with channels behind;"
            f" this is {_describe(wave)}"
        )
    if channels > MAX_CHANNELS:
        raise NotSendable(f"{_describe(wave)} has {channels} channels; should it be transposed?")
    code, dtype = WAV_FORMATS[wave.dtype.kind]
    data = wave.astype(dtype).tobytes()
    width = int(dtype[-1])  # bytes of a sample
    layout = struct.pack(
        "<HHIIHH", code, channels, rate, rate * channels * width, channels * width, 8 * width
    )
    body = b"WAVE" + _chunk(b"fmt ", layout) + _chunk(b"data", data)
    return _chunk(b"RIFF", body)


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data


def _describe(array: "NDArray[Any]") -> str:
    return f"{array.dtype}{list(array.shape)}"
