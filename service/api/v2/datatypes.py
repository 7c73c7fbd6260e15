"""Tensors on the wire: datatypes of the Open Inference Protocol, as little-endian bytes or JSON."""

import math
import struct
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from service.errors import BadRequest, TooLarge
from service.runtime.tensors import Array

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip

# numpy's name -> the protocol's
DATATYPES: dict[str, Datatype] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",  # of Python's bytes
}
DTYPES = {datatype: np.dtype(name).newbyteorder("<") for name, datatype in DATATYPES.items()}

# numpy's kind -> its Python types in parsed JSON
JSON_TYPES: dict[str, set[type]] = {
    "b": {bool},
    "u": {int},
    "i": {int},
    "f": {int, float},
    "O": {str},
}
MAX_STRINGS = 65_536  # elements of BYTES in a request; each is a Python object
LENGTH = struct.Struct("<I")  # before each element of BYTES


def from_binary(datatype: Datatype, shape: Sequence[int], data: memoryview) -> Array:
    """The tensor in these bytes; numbers are not copied.

    Raises:
        BadRequest: the number of bytes does not fit the shape.
    """
    if datatype == "BYTES":
        return _as_bytes(_split_strings(data, _count_strings(shape)), shape)
    dtype = DTYPES[datatype]
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) != wanted:
        raise BadRequest(f"{datatype}{list(shape)} has {wanted} bytes, not {len(data)}")
    return _reshape(np.frombuffer(data, dtype), shape)


def from_json(datatype: Datatype, shape: Sequence[int], data: list[Any]) -> Array:
    """The tensor in a JSON list, flat or nested, in row-major order.

    Raises:
        BadRequest: an element has another type or is out of range, or their number is wrong.
    """
    if datatype == "FP16":
        raise BadRequest("JSON cannot represent FP16; send binary data")
    dtype = DTYPES[datatype]
    elements = np.array(data, dtype=object).ravel()
    if unfit := set(map(type, elements)) - JSON_TYPES[dtype.kind]:
        raise BadRequest(f"{datatype} cannot hold {sorted(kind.__name__ for kind in unfit)[0]}")
    if datatype == "BYTES":
        _count_strings(shape)
        return _as_bytes([element.encode() for element in elements], shape)
    if elements.size != math.prod(shape):
        raise BadRequest(f"{datatype}{list(shape)} cannot have {elements.size} elements")
    try:
        with np.errstate(over="raise"):
            return _reshape(elements.astype(dtype), shape)
    except (OverflowError, FloatingPointError) as error:
        raise BadRequest(f"an element is out of range for {datatype}") from error


def to_binary(tensor: Array) -> bytes:
    """The bytes of a tensor, in the form that `from_binary` reads."""
    if tensor.dtype.kind == "O":
        return b"".join(LENGTH.pack(len(element)) + element for element in tensor.flat)
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()


def to_json(tensor: Array) -> Array | list[str]:
    """The elements of a tensor, flat, in row-major order, for orjson.

    Raises:
        BadRequest: JSON cannot represent them.
    """
    if tensor.dtype == np.float16:
        raise BadRequest("JSON cannot represent FP16; request binary data")
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise BadRequest("JSON cannot represent NaN or infinity; request binary data")
    if tensor.dtype.kind == "O":
        return [element.decode() for element in tensor.flat]
    return tensor.ravel()


def _reshape(tensor: Array, shape: Sequence[int]) -> Array:
    try:
        return tensor.reshape(shape)
    except ValueError as error:  # no elements, but a side beyond numpy's limit
        raise BadRequest(f"{list(shape)} is not a valid shape: {error}") from error


def _count_strings(shape: Sequence[int]) -> int:
    count = math.prod(shape)
    if count > MAX_STRINGS:
        raise TooLarge(f"BYTES{list(shape)} has {count} elements; the limit is {MAX_STRINGS}")
    return count


def _split_strings(data: memoryview, most: int) -> list[bytes]:
    elements: list[bytes] = []
    start = 0
    while start < len(data):
        if len(elements) == most:
            raise BadRequest(f"the data has more than {most} elements of BYTES")
        end = start + LENGTH.size
        if end <= len(data):
            end += LENGTH.unpack_from(data, start)[0]
        if end > len(data):
            raise BadRequest(f"element {len(elements)} is cut off")
        elements.append(bytes(data[start + LENGTH.size : end]))
        start = end
    return elements


def _as_bytes(elements: Sequence[bytes], shape: Sequence[int]) -> Array:
    if len(elements) != math.prod(shape):
        raise BadRequest(f"BYTES{list(shape)} cannot have {len(elements)} elements")
    tensor = np.empty(len(elements), object)
    tensor[:] = elements
    return _reshape(tensor, shape)
