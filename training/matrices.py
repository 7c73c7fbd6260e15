"""MATLAB's files of version 5, as far as vectors of whole numbers go.

After a header of 128 bytes come elements: type and size in four bytes each, the data, and zeros up
to a multiple of eight. Data of up to four bytes stand in the place of the size, with size and type
in two bytes each before them. A matrix is an element of elements: flags, shape, name, values.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import DataUnavailable

HEADER = 128
LITTLE_ENDIAN = b"IM"  # the header's end
COMPRESSED = 15
NUMBERS = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8"}


def read_vectors(path: Path) -> dict[str, NDArray[np.int64]]:
    """The variables of the file by name, int64[n] each.

    Raises:
        DataUnavailable: it is no such file.
    """
    content = path.read_bytes()
    if content[HEADER - 2 : HEADER] != LITTLE_ENDIAN:
        raise DataUnavailable(f"{path} is not a little-endian file of MATLAB's version 5")
    try:
        return dict(_vector(matrix) for _, matrix in _elements(content[HEADER:]))
    except (struct.error, zlib.error, KeyError, ValueError) as error:
        raise DataUnavailable(f"{path} holds something else than vectors: {error}") from error


def _vector(matrix: bytes) -> tuple[str, NDArray[np.int64]]:
    _flags, _shape, (_, name), (kind, values) = _elements(matrix)
    return name.decode(), np.frombuffer(values, NUMBERS[kind]).astype(np.int64)


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, data) of each; what is compressed is given as the elements that it holds."""
    while content:
        kind, size = struct.unpack_from("<II", content)
        if kind >> 16:
            yield kind & 0xFFFF, content[4 : 4 + (kind >> 16)]
            content = content[8:]
        elif kind == COMPRESSED:  # the only element without zeros after it
            yield from _elements(zlib.decompress(content[8 : 8 + size]))
            content = content[8 + size :]
        else:
            yield kind, content[8 : 8 + size]
            content = content[8 + size + -size % 8 :]
