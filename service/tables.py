"""Tables: what a graph looks rows up in, read from its file once for all sessions of it.

A table of words is half of a small text model and nearly all of a multilingual one. onnxruntime
neither packs nor changes it, and yet gives each session a copy, unless it is handed one.

The serving install has no `onnx`, and a parser would make objects of all the other weights, too.
So the few fields that are wanted are found where they lie; a file of 90 MB takes 3 ms. Source of
their numbers: onnx.proto of https://github.com/onnx/onnx; of the wire format:
https://protobuf.dev/programming-guides/encoding
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.preprocessing import Array

LEAST_BYTES = 2**20  # of a table that is worth it
DTYPES = {1: "float32", 2: "uint8", 3: "int8", 10: "float16"}  # TensorProto.DataType

# Numbers of fields, by their message
GRAPH = 7
NODE, INITIALIZER = 1, 5
INPUT, OP_TYPE = 1, 4
DIMS, DATA_TYPE, NAME, RAW_DATA = 1, 2, 8, 9

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types


class _Field(NamedTuple):
    number: int
    value: int  # of a varint, else 0
    start: int  # of the bytes, where it has some
    end: int


def read_tables(graph: Path) -> dict[str, Array]:
    """The initializers that `Gather` looks rows up in, by name: those of 1 MiB and more.

    None of a file that is not understood: onnxruntime will say what is wrong with it.
    """
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return dict(_tables(data))
    except (OSError, IndexError, KeyError, ValueError):
        return {}


def _tables(data: mmap.mmap) -> Iterator[tuple[str, Array]]:
    [whole] = [field for field in _fields(data, 0, len(data)) if field.number == GRAPH]
    parts = list(_fields(data, whole.start, whole.end))
    looked_up = {_table_of(data, part) for part in parts if part.number == NODE}
    for part in parts:
        if part.number == INITIALIZER and part.end - part.start >= LEAST_BYTES:
            name, array = _tensor(data, part)
            if name in looked_up and array is not None:
                yield name, array


def _table_of(data: mmap.mmap, node: _Field) -> str | None:
    """The name of what a node looks up in."""
    fields = list(_fields(data, node.start, node.end))
    [operator] = [_text(data, field) for field in fields if field.number == OP_TYPE]
    inputs = (_text(data, field) for field in fields if field.number == INPUT)
    return next(inputs, None) if operator == "Gather" else None


def _tensor(data: mmap.mmap, tensor: _Field) -> tuple[str, Array | None]:
    """Its name and values; None where they are of another type, or lie elsewhere."""
    shape: list[int] = []
    name, dtype, values = "", None, None
    for field in _fields(data, tensor.start, tensor.end):
        if field.number == DIMS and field.end:  # packed
            shape += _varints(data, field.start, field.end)
        elif field.number == DIMS:
            shape.append(field.value)
        elif field.number == DATA_TYPE:
            dtype = DTYPES.get(field.value)
        elif field.number == NAME:
            name = _text(data, field)
        elif field.number == RAW_DATA:
            values = data[field.start : field.end]
    if dtype is None or values is None:
        return name, None
    return name, np.frombuffer(values, np.dtype(dtype).newbyteorder("<")).reshape(shape)


def _text(data: mmap.mmap, field: _Field) -> str:
    return data[field.start : field.end].decode()


def _fields(data: mmap.mmap, place: int, end: int) -> Iterator[_Field]:
    """The fields of the message that lies there, in their order."""
    while place < end:
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = _varint(data, place)
            yield _Field(number, value, 0, 0)
        elif kind == LENGTH:
            length, start = _varint(data, place)
            place = start + length
            yield _Field(number, 0, start, place)
        else:
            place += {FIXED64: 8, FIXED32: 4}[kind]


def _varints(data: mmap.mmap, place: int, end: int) -> Iterator[int]:
    while place < end:
        value, place = _varint(data, place)
        yield value


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """The number that begins there, and where the next byte behind it is."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
