"""Archives: their files are read, and nothing outside them is ever reached."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.archives import pack_tar, pack_zip
from training.archives import read_archive
from training.errors import DataUnavailable

Pack = Callable[[Mapping[str, bytes]], bytes]
FILES = {"top/a.txt": b"a", "top/deep/b.txt": bytes(5000)}


@pytest.mark.parametrize(("name", "pack"), [("a.tgz", pack_tar), ("a.zip", pack_zip)])
def test_every_file_is_read(tmp_path: Path, name: str, pack: Pack) -> None:
    path = tmp_path / name
    path.write_bytes(pack({**FILES, "top/empty": b""}))
    assert dict(read_archive(path)) == {**FILES, "top/empty": b""}


def test_links_and_folders_are_no_files(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(pack_tar(FILES, links={"top/c.txt": "a.txt"}))
    assert dict(read_archive(path)) == FILES
    path = tmp_path / "a.zip"
    path.write_bytes(pack_zip({"top/": b"", **FILES}))
    assert dict(read_archive(path)) == FILES


@pytest.mark.parametrize("name", ["../a.txt", "/etc/a.txt", "top/../../a.txt"])
def test_what_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    for path, content in (
        (tmp_path / "a.tgz", pack_tar({name: b"!"})),
        (tmp_path / "a.tgz", pack_tar({}, links={"a.txt": name})),
        (tmp_path / "a.zip", pack_zip({name: b"!"})),
    ):
        path.write_bytes(content)
        with pytest.raises(DataUnavailable, match=rf"leads outside its folder: {name}"):
            list(read_archive(path))


@pytest.mark.parametrize(("name", "pack"), [("a.tgz", pack_tar), ("a.zip", pack_zip)])
def test_what_is_no_whole_archive_is_refused(tmp_path: Path, name: str, pack: Pack) -> None:
    path = tmp_path / name
    for content in (pack(FILES)[:-30], b"<html>not found</html>", b""):
        path.write_bytes(content)
        with pytest.raises(DataUnavailable, match=rf"{name} cannot be unpacked"):
            list(read_archive(path))
