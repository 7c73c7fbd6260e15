"""Tables: lookup tables of a graph, read from its file once for all its sessions.

The word table is half of a small text model, and nearly all of a multilingual one. Each session
copies it unless the sessions share one: with two sessions, MiniLM and EfficientNet-Lite0 together
need 355 MiB instead of 400. Only tables that nothing but `Gather` reads can be shared, because
onnxruntime may transpose or pack other weights.

The serving install has no `onnx` package, whose parser makes objects of all weights. This module
finds the few fields that it needs in the file's bytes, in 0.09 s for 90 MB. The file is read, not
mapped: a write to a mapped file would end the process. Sources: onnx.proto of
https://github.com/onnx/onnx, and https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from service.runtime.tensors import Array

MIN_BYTES = 2**20  # smaller tables are not worth sharing
DTYPES = {1: "float32", 2: "uint8", 3: "int8", 10: "float16"}  # TensorProto.DataType

# Numbers of fields, by their message
GRAPH = 7
NODE, INITIALIZER = 1, 5
INPUT, OP_TYPE, ATTRIBUTE = 1, 4, 5
SUBGRAPHS = (6, 11)  # of an attribute: one, several
DIMS, DATA_TYPE, NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 8, 9, 13, 14
KEY, VALUE = 1, 2
# A kind of message -> its fields that lead to tensors and nodes -> their kinds
MESSAGES: dict[str, dict[int, str]] = {
    "model": {GRAPH: "main graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "main graph": {NODE: "node", INITIALIZER: "tensor", 15: "sparse tensor"},
    "graph": {NODE: "node", INITIALIZER: "tensor", 15: "sparse tensor"},
    "node": {ATTRIBUTE: "attribute"},
    "attribute": {
        **{5: "tensor", 10: "tensor", 22: "sparse tensor", 23: "sparse tensor"},
        **dict.fromkeys(SUBGRAPHS, "graph"),
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
MAX_BITS = 64  # of a varint


class _Field(NamedTuple):
    number: int
    value: int  # of a varint, else 0
    start: int  # of the bytes, where it has some
    end: int


def read_tables(data: bytes) -> dict[str, Array]:
    """The initializers of 1 MiB and more that `Gather` looks rows up in, and nothing else uses.

    None of a graph that is not understood: onnxruntime will say what is wrong with it.
    """
    try:
        return dict(_tables(data))
    except (IndexError, KeyError, ValueError):
        return {}


def find_side_files(data: bytes) -> set[str]:
    """The locations of the files that hold initializers of the graph, as it spells them.

    Raises:
        ValueError: the graph is not understood, or reads files by other means than these.
    """
    try:
        return set(_side_files(data, _Field(0, 0, 0, len(data)), "model", ""))
    except (IndexError, KeyError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError("it is not an ONNX file") from error


def _side_files(data: bytes, message: _Field, kind: str, inside: str) -> Iterator[str]:
    """Args:
    inside: the kind of message that holds this one.
    """
    children = MESSAGES[kind]
    for field in _fields(data, message.start, message.end):
        if field.end > message.end:
            raise IndexError("a field ends behind its message")
        if kind == "tensor" and field.number == DATA_LOCATION and field.value:
            if inside != "main graph":
                raise ValueError("it has weights in other files outside its main graph")
            yield from _locations(data, message)
        if kind == "node" and field.number == OP_TYPE and _text(data, field) == "EPContext":
            raise ValueError("it has an EPContext node, which reads compiled files")
        if child := children.get(field.number):
            yield from _side_files(data, field, child, kind)


def _locations(data: bytes, tensor: _Field) -> Iterator[str]:
    for entry in _within(data, tensor, EXTERNAL_DATA):
        key, value = (
            "".join(_text(data, field) for field in _within(data, entry, number))
            for number in (KEY, VALUE)
        )
        if key == "location":
            yield value


def _tables(data: bytes) -> Iterator[tuple[str, Array]]:
    [graph] = _within(data, _Field(0, 0, 0, len(data)), GRAPH)
    looked_up: set[str] = set()
    otherwise_used: set[str] = set()
    for operator, inputs in _nodes(data, graph):
        lookups = inputs[:1] if operator == "Gather" else []
        looked_up.update(lookups)
        otherwise_used.update(inputs[len(lookups) :])
    wanted = looked_up - otherwise_used
    for tensor in _within(data, graph, INITIALIZER):
        if tensor.end - tensor.start >= MIN_BYTES:
            yield from _tensor(data, tensor, wanted)


def _nodes(data: bytes, graph: _Field) -> Iterator[tuple[str, list[str]]]:
    """Operator and inputs of each node, those of its subgraphs as well."""
    for node in _within(data, graph, NODE):
        [operator] = [_text(data, field) for field in _within(data, node, OP_TYPE)]
        yield operator, [_text(data, field) for field in _within(data, node, INPUT)]
        for attribute in _within(data, node, ATTRIBUTE):
            for subgraph in _within(data, attribute, *SUBGRAPHS):
                yield from _nodes(data, subgraph)


def _tensor(data: bytes, tensor: _Field, wanted: set[str]) -> Iterator[tuple[str, Array]]:
    """Its name and values; nothing where it is not wanted, of another type, or lies elsewhere."""
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
            values = field
    if name in wanted and dtype and values:
        content = data[values.start : values.end]  # a copy: the rest of the file is let go
        yield name, np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).reshape(shape)


def _text(data: bytes, field: _Field) -> str:
    return data[field.start : field.end].decode()


def _within(data: bytes, message: _Field, *numbers: int) -> Iterator[_Field]:
    """The fields of a message that have these numbers."""
    fields = _fields(data, message.start, message.end)
    return (field for field in fields if field.number in numbers)


def _fields(data: bytes, place: int, end: int) -> Iterator[_Field]:
    """The fields of the message that lies there, in their order."""
    while place < end:
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if not number:
            raise ValueError("no field has the number 0")
        if kind == VARINT:
            value, place = _varint(data, place)
            yield _Field(number, value, 0, 0)
        elif kind == LENGTH:
            length, start = _varint(data, place)
            place = start + length
            yield _Field(number, 0, start, place)
        else:
            place += {FIXED64: 8, FIXED32: 4}[kind]


def _varints(data: bytes, place: int, end: int) -> Iterator[int]:
    while place < end:
        value, place = _varint(data, place)
        yield value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number that begins there, and where the next byte behind it is."""
    value = 0
    for shift in range(0, MAX_BITS, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number is too long")
