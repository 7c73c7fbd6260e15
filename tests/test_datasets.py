"""Public data sets: downloaded, verified and unpacked without surprises."""

import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import tone
from training.datasets import fetch_digits
from training.errors import DataUnavailable

TOP = "free-spoken-digit-dataset-1.0.10"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which a local server publishes it."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield folder, f"http://127.0.0.1:{server.server_port}/digits.tar.gz"
        finally:
            server.shutdown()
            thread.join()


def publish(folder: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(folder / "digits.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def a_few_takes() -> dict[str, bytes]:
    return {
        f"{TOP}/README.md": b"# Free Spoken Digit Dataset",
        f"{TOP}/recordings/0_ann_0.wav": tone(0.1),
        f"{TOP}/recordings/0_bob_12.wav": tone(0.2),
        f"{TOP}/recordings/7_ann_3.wav": tone(0.3),
    }


def test_a_download_is_laid_out_by_class_and_kept(tmp_path: Path, site: tuple[Path, str]) -> None:
    folder, url = site
    publish(folder, a_few_takes())
    found = fetch_digits(tmp_path / "cache", url)
    names = sorted(str(path.relative_to(found)) for path in found.rglob("*.wav"))
    assert names == ["seven/ann_03.wav", "zero/ann_00.wav", "zero/bob_12.wav"]
    (folder / "digits.tar.gz").unlink()
    assert fetch_digits(tmp_path / "cache", url) == found  # needs no network any more


def test_an_archive_that_differs_from_the_first_download_is_refused(
    tmp_path: Path, site: tuple[Path, str]
) -> None:
    folder, url = site
    cache = tmp_path / "cache"
    publish(folder, a_few_takes())
    found = fetch_digits(cache, url)
    for path in (found, cache / "spoken-digits.tar.gz"):
        path.rename(tmp_path / path.name)
    publish(folder, {**a_few_takes(), f"{TOP}/recordings/1_eve_0.wav": tone(0.4)})
    with pytest.raises(DataUnavailable, match=r"SHA-256 \w+, the first download had \w+"):
        fetch_digits(cache, url)
    assert not found.exists()


@pytest.mark.parametrize("name", ["../recordings/0_eve_0.wav", "/recordings/0_eve_0.wav"])
def test_an_archive_that_reaches_outside_its_folder_is_refused(
    tmp_path: Path, site: tuple[Path, str], name: str
) -> None:
    folder, url = site
    publish(folder, {**a_few_takes(), name: b"!"})
    with pytest.raises(DataUnavailable, match="outside its folder"):
        fetch_digits(tmp_path / "cache", url)
    assert list((tmp_path / "cache").iterdir()) == []  # neither files nor a hash to trust


def test_an_archive_that_was_cut_off_leaves_nothing_behind(
    tmp_path: Path, site: tuple[Path, str]
) -> None:
    folder, url = site
    publish(folder, a_few_takes())
    archive = folder / "digits.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DataUnavailable, match="cannot be unpacked"):
        fetch_digits(tmp_path / "cache", url)
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_network_it_says_what_to_do(tmp_path: Path, site: tuple[Path, str]) -> None:
    _, url = site
    with pytest.raises(DataUnavailable, match=r"404.*pass --data DIR"):
        fetch_digits(tmp_path / "cache", url)
