"""Recordings: found by their layout, or downloaded, verified and unpacked without surprises."""

import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import tone
from training.datasets import fetch_digits, find_recordings
from training.errors import BadData, DataUnavailable

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


def write_takes(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tone(0.1))


def test_digits_are_labelled_in_their_own_order_and_other_words_by_the_alphabet(
    tmp_path: Path,
) -> None:
    write_takes(tmp_path, "two/a_1.wav", "one/a_1.wav", "zero/a_1.wav", "stop/a_1.wav")
    assert find_recordings(tmp_path).labels == ("zero", "one", "two", "stop")


def test_a_file_name_tells_speaker_and_take_and_the_first_five_takes_are_the_test_split(
    tmp_path: Path,
) -> None:
    write_takes(tmp_path, "no/ann_04.wav", "no/mary_ann_05.wav", "yes/ann_00.wav")
    recordings = find_recordings(tmp_path)
    assert [(take.speaker, take.take, take.is_test) for take in recordings.takes] == [
        ("ann", 4, True),
        ("mary_ann", 5, False),
        ("ann", 0, True),
    ]
    assert recordings.speakers == ("ann", "mary_ann")


def test_a_class_without_recordings_is_named(tmp_path: Path) -> None:
    write_takes(tmp_path, "yes/a_1.wav")
    (tmp_path / "no").mkdir()
    with pytest.raises(BadData, match="class no has no recordings"):
        find_recordings(tmp_path)


def test_a_file_that_names_no_speaker_is_named(tmp_path: Path) -> None:
    write_takes(tmp_path, "yes/a_1.wav", "no/something.wav")
    with pytest.raises(BadData, match=r"something.wav is not named <speaker>_<take>.wav"):
        find_recordings(tmp_path)


def test_a_folder_that_is_not_there_is_told_the_layout(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"there is no folder .*; --data wants"):
        find_recordings(tmp_path / "nowhere")


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
