"""MATLAB's files: the vectors of numbers in them, however they are stored."""

from pathlib import Path

import pytest

from tests.matlab import DOUBLE, HEADER, UINT8, UINT16, write_element, write_vectors
from training.errors import DataUnavailable
from training.matrices import read_vectors

VECTORS = {"labels": [77, 3, 102], "id": [1], "many": list(range(1, 201))}


@pytest.mark.parametrize("kind", [UINT8, UINT16, DOUBLE])
@pytest.mark.parametrize("compressed", [True, False])
def test_vectors_are_read_by_name(tmp_path: Path, kind: int, compressed: bool) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(write_vectors(VECTORS, kind, compressed=compressed))
    read = {name: values.tolist() for name, values in read_vectors(path).items()}
    assert read == VECTORS


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"<html>" * 50, "is not a little-endian file"),
        (HEADER[:-2] + b"MI", "is not a little-endian file"),
        (HEADER + b"\x0e\0\0", "something else than vectors"),
        (HEADER + write_element(15, b"not compressed"), "something else than vectors"),
        (HEADER + write_element(14, write_element(6, bytes(8))), "something else than vectors"),
        (HEADER + write_element(14, write_element(16, b"text") * 4), "something else than vectors"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(content)
    with pytest.raises(DataUnavailable, match=complaint):
        read_vectors(path)
