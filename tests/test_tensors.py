"""Tensors on the wire: every datatype, there and back, and what is refused."""

import math
from typing import Any

import numpy as np
import orjson
import pytest

from service.api.v2.datatypes import (
    DATATYPES,
    DTYPES,
    MAX_STRINGS,
    Datatype,
    from_binary,
    from_json,
    to_binary,
    to_json,
)
from service.errors import BadRequest, TooLarge

NUMBERS = [datatype for datatype in DTYPES if datatype != "BYTES"]


def extremes(datatype: str) -> Any:
    """A 2 x 2 tensor of what is special in a datatype."""
    dtype = DTYPES[datatype]  # type: ignore[index]
    if dtype.kind == "b":
        return np.array([[True, False], [False, True]])
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([[info.min, 0], [1, info.max]], dtype)


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_as_bytes(datatype: Datatype) -> None:
    tensor = extremes(datatype)
    data = to_binary(tensor)
    assert len(data) == 4 * tensor.itemsize
    back = from_binary(datatype, [2, 2], memoryview(data))
    np.testing.assert_array_equal(back, tensor)
    assert DATATYPES[back.dtype.name] == datatype


def test_bytes_are_little_endian_on_every_machine() -> None:
    assert to_binary(np.array([1], ">i4")) == b"\1\0\0\0" == to_binary(np.array([1], "<i4"))
    assert from_binary("UINT16", [1], memoryview(b"\1\2")).tolist() == [513]


@pytest.mark.parametrize("datatype", [name for name in NUMBERS if name != "FP16"])
def test_numbers_as_json(datatype: Datatype) -> None:
    tensor = extremes(datatype)
    written = orjson.dumps(to_json(tensor), option=orjson.OPT_SERIALIZE_NUMPY)
    back = from_json(datatype, [2, 2], orjson.loads(written))
    np.testing.assert_array_equal(back, tensor)
    nested = from_json(datatype, [2, 2], tensor.tolist())
    np.testing.assert_array_equal(nested, tensor)


def test_strings_and_files() -> None:
    tensor = from_binary("BYTES", [3, 1], memoryview(b"\2\0\0\0hi\0\0\0\0\1\0\0\0\xff"))
    assert tensor.tolist() == [[b"hi"], [b""], [b"\xff"]]
    assert to_binary(tensor) == b"\2\0\0\0hi\0\0\0\0\1\0\0\0\xff"
    words = from_json("BYTES", [2], ["sea", "\u00e9"])
    assert words.tolist() == [b"sea", b"\xc3\xa9"]
    assert to_json(words) == ["sea", "\u00e9"]


def test_half_precision_has_no_form_in_json() -> None:
    with pytest.raises(BadRequest, match="FP16"):
        from_json("FP16", [1], [1.0])
    with pytest.raises(BadRequest, match="FP16"):
        to_json(np.zeros(1, np.float16))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_has_no_form_in_json(value: float) -> None:
    with pytest.raises(BadRequest, match="NaN or infinity"):
        to_json(np.array([value], np.float32))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "words"),
    [
        ("UINT8", [1], [256], "out of range for UINT8"),
        ("UINT8", [1], [-1], "out of range for UINT8"),
        ("INT64", [1], [2**63], "out of range for INT64"),
        ("FP32", [1], [1e39], "out of range for FP32"),
        ("FP64", [1], [10**400], "out of range for FP64"),
        ("INT32", [1], [1.0], "cannot hold float"),
        ("INT32", [1], [True], "cannot hold bool"),
        ("BOOL", [1], [1], "cannot hold int"),
        ("FP32", [1], ["1"], "cannot hold str"),
        ("FP32", [2], [[1], [2, 3]], "cannot hold list"),
        ("FP32", [1], [None], "cannot hold NoneType"),
        ("BYTES", [1], [1], "cannot hold int"),
        ("FP32", [3], [1, 2], "cannot have 2 elements"),
        ("BYTES", [3], ["a", "b"], "cannot have 2 elements"),
    ],
)
def test_json_of_another_kind_is_refused(
    datatype: Datatype, shape: list[int], data: list[Any], words: str
) -> None:
    with pytest.raises(BadRequest, match=words):
        from_json(datatype, shape, data)


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        ("INT32", b"\0" * 7, "has 8 bytes, not 7"),
        ("INT32", b"\0" * 9, "has 8 bytes, not 9"),
        ("BYTES", b"", "cannot have 0 elements"),
        ("BYTES", b"\0\0\0\0", "cannot have 1 elements"),
        ("BYTES", b"\0\0\0\0" * 3, "more than 2 elements"),
        ("BYTES", b"\0\0\0\0\0\0", "element 1 is cut off"),
        ("BYTES", b"\0\0\0\0\xff\xff\xff\xff", "element 1 is cut off"),
    ],
)
def test_bytes_that_do_not_fit_the_shape_are_refused(
    datatype: Datatype, data: bytes, words: str
) -> None:
    with pytest.raises(BadRequest, match=words):
        from_binary(datatype, [2], memoryview(data))


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**62, 2**62], [0, 10**30]])
@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_a_shape_that_no_tensor_can_have_is_refused(datatype: Datatype, shape: list[int]) -> None:
    with pytest.raises(BadRequest, match="is not a valid shape"):
        from_binary(datatype, shape, memoryview(b""))
    with pytest.raises(BadRequest, match="is not a valid shape"):
        from_json(datatype, shape, [])


def test_bytes_are_not_read_beyond_what_the_shape_says() -> None:
    with pytest.raises(TooLarge, match="the limit is 65536"):
        from_binary("BYTES", [MAX_STRINGS + 1], memoryview(b""))
    with pytest.raises(TooLarge, match="the limit is 65536"):
        from_json("BYTES", [MAX_STRINGS + 1], [])
    with pytest.raises(BadRequest, match="more than 2 elements"):
        from_binary("BYTES", [2], memoryview(bytes(4 * 10)))
