"""Downloads: whole, verified, continued after a break, and plain about what went wrong."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.website import Website, open_website
from training.downloads import Download, download, record_hash
from training.errors import DataUnavailable

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def site() -> Iterator[Website]:
    with open_website() as website:
        yield website


def test_a_file_is_downloaded_once(tmp_path: Path, site: Website) -> None:
    wanted = site.publish("a.tgz", CONTENT)
    assert download(wanted, tmp_path / "new").read_bytes() == CONTENT
    assert download(wanted, tmp_path / "new").name == "a.tgz"
    assert site.asked == [("a.tgz", None)]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.tgz"]


def test_a_broken_download_goes_on_where_it_ended(tmp_path: Path, site: Website) -> None:
    wanted = site.publish("a.tgz", CONTENT)
    site.breaks_after = 100_000
    with pytest.raises(DataUnavailable, match=r"100,000 of 256,000 bytes; the same command goes"):
        download(wanted, tmp_path)
    assert (tmp_path / "a.tgz.partial").read_bytes() == CONTENT[:100_000]
    site.breaks_after = None
    assert download(wanted, tmp_path).read_bytes() == CONTENT
    assert site.asked[1:] == [("a.tgz", "bytes=100000-")]


def test_a_file_of_unknown_size_is_downloaded_whole_or_not(tmp_path: Path, site: Website) -> None:
    wanted = site.publish("a.tgz", CONTENT)
    site.in_chunks, site.breaks_after = True, 100_000
    with pytest.raises(DataUnavailable, match=r"broke off .*; the same command goes on"):
        download(wanted, tmp_path)
    assert not (tmp_path / "a.tgz").exists()
    site.breaks_after = None
    assert download(wanted, tmp_path).read_bytes() == CONTENT


def test_a_server_that_sends_no_parts_is_asked_for_all_of_it(tmp_path: Path, site: Website) -> None:
    wanted = site.publish("a.tgz", CONTENT)
    (tmp_path / "a.tgz.partial").write_bytes(CONTENT[:100_000])
    site.sends_parts = False
    assert download(wanted, tmp_path).read_bytes() == CONTENT


def test_a_partial_file_that_lacks_nothing_does_no_harm(tmp_path: Path, site: Website) -> None:
    wanted = site.publish("a.tgz", CONTENT)
    (tmp_path / "a.tgz.partial").write_bytes(CONTENT)
    assert download(wanted, tmp_path).read_bytes() == CONTENT
    assert [part for _, part in site.asked] == ["bytes=256000-", None]


def test_a_file_with_another_hash_is_refused_and_removed(tmp_path: Path, site: Website) -> None:
    wanted = replace(site.publish("a.tgz", CONTENT), sha256="0" * 64)
    found = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(DataUnavailable, match=f"its SHA-256 is {found}, not 0000"):
        download(wanted, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_partial_file_of_something_else_is_given_up(tmp_path: Path, site: Website) -> None:
    wanted = site.publish("a.tgz", CONTENT)
    (tmp_path / "a.tgz.partial").write_bytes(b"x" * 1000)
    with pytest.raises(DataUnavailable, match="is not the file that is meant"):
        download(wanted, tmp_path)
    assert download(wanted, tmp_path).read_bytes() == CONTENT


def test_a_file_put_there_by_hand_needs_no_network(tmp_path: Path) -> None:
    wanted = Download("http://127.0.0.1:9/a.tgz", hashlib.sha256(CONTENT).hexdigest())
    (tmp_path / "a.tgz").write_bytes(CONTENT)
    assert download(wanted, tmp_path) == tmp_path / "a.tgz"


def test_without_a_published_hash_the_recorded_one_must_fit(tmp_path: Path, site: Website) -> None:
    wanted = replace(site.publish("a.tgz", CONTENT), sha256=None)
    record_hash(download(wanted, tmp_path))
    assert download(wanted, tmp_path).exists()
    (tmp_path / "a.tgz").unlink()
    site.publish("a.tgz", b"another")
    with pytest.raises(DataUnavailable, match=r"if it is to be trusted, remove .*a\.tgz\.sha256"):
        download(wanted, tmp_path)
    (tmp_path / "a.tgz.sha256").unlink()
    assert download(wanted, tmp_path).read_bytes() == b"another"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/a.tgz", "Connection refused"),
        ("a.tgz", "unknown url type"),
    ],
)
def test_without_a_network_it_says_what_to_do(tmp_path: Path, url: str, reason: str) -> None:
    with pytest.raises(DataUnavailable, match=rf"{reason}.*put the file into {tmp_path} by hand"):
        download(Download(url, sha256=None), tmp_path)


def test_what_the_server_does_not_have_is_named(tmp_path: Path, site: Website) -> None:
    with pytest.raises(DataUnavailable, match=r"/a\.tgz cannot be downloaded \(404 Not Found\)"):
        download(Download(f"{site.address}a.tgz", sha256=None), tmp_path)


def test_a_file_larger_than_the_disk_is_not_begun(tmp_path: Path, site: Website) -> None:
    wanted = site.publish("a.tgz", CONTENT)
    site.claims = 1 << 60
    with pytest.raises(DataUnavailable, match=r"has 1,152,\S+ bytes, and .* has \S+ left"):
        download(wanted, tmp_path)
    assert not list(tmp_path.iterdir())
