"""Files of MATLAB's version 5, written by the book: what training/matrices.py reads."""

import struct
import zlib
from collections.abc import Mapping, Sequence

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
INT8, UINT8, UINT16, INT32, UINT32, DOUBLE, MATRIX, COMPRESSED = 1, 2, 4, 5, 6, 9, 14, 15
FORMATS = {UINT8: "B", UINT16: "H", DOUBLE: "d"}
DOUBLE_CLASS = 6  # of the array, whatever the type that its values are stored in


def write_vectors(
    vectors: Mapping[str, Sequence[int]], kind: int = UINT16, *, compressed: bool = True
) -> bytes:
    """A file of row vectors, each a variable, stored as numbers of that type."""
    matrices = (write_matrix(name, values, kind) for name, values in vectors.items())
    if compressed:  # such an element has no zeros after it
        packed = map(zlib.compress, matrices)
        matrices = (struct.pack("<II", COMPRESSED, len(data)) + data for data in packed)
    return HEADER + b"".join(matrices)


def write_matrix(name: str, values: Sequence[int], kind: int) -> bytes:
    parts = (
        write_element(UINT32, struct.pack("<II", DOUBLE_CLASS, 0)),
        write_element(INT32, struct.pack("<ii", 1, len(values))),
        write_element(INT8, name.encode()),
        write_element(kind, struct.pack(f"<{len(values)}{FORMATS[kind]}", *values)),
    )
    return write_element(MATRIX, b"".join(parts))


def write_element(kind: int, data: bytes) -> bytes:
    if len(data) <= 4:
        return struct.pack("<HH4s", kind, len(data), data)
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)
