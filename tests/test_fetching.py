"""`python -m training fetch NAME`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.archives import pack_tar
from tests.conftest import tone
from tests.website import Website, open_website
from training.__main__ import main
from training.datasets import PUBLIC_DATA

TABLE = b"text,category\nWhy?,refund\nWhere?,card\n"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Website]:
    """Publishes small archives in place of the real ones."""
    with open_website() as website:
        tables = (website.publish("train.csv", TABLE), website.publish("test.csv", TABLE))
        intents = replace(PUBLIC_DATA["banking77"], downloads=tables)
        archive = website.publish("a.tgz", pack_tar({"recordings/1_ann_0.wav": tone(0.1)}))
        digits = replace(PUBLIC_DATA["spoken-digits"], downloads=(replace(archive, sha256=None),))
        for data in (intents, digits):
            monkeypatch.setitem(PUBLIC_DATA, data.name, data)
        yield website


@pytest.mark.usefixtures("site")
def test_it_says_where_the_data_lie_and_what_may_be_done_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "questions"
    assert main(["fetch", "banking77", "--into", str(folder), "--cache", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "licence: CC BY 4.0" in said
    assert "every file had the published SHA-256" in said
    assert f"lies in: {folder}\n" in said
    assert f"python -m training fit text --data {folder} --name banking77\n" in said
    assert (folder / "train.csv").is_file()


@pytest.mark.usefixtures("site")
def test_it_says_when_nobody_publishes_a_hash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "spoken-digits", "--cache", str(tmp_path)]) == 0
    assert "hash: none is published; the first download's is kept" in capsys.readouterr().out
    assert (tmp_path / "datasets/spoken-digits/one/ann_00.wav").is_file()


def test_the_second_time_it_only_says_it_again(
    tmp_path: Path, site: Website, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fetch", "banking77", "--cache", str(tmp_path)]
    assert main(words) == 0
    first, asked = capsys.readouterr().out, len(site.asked)
    assert main(words) == 0
    assert capsys.readouterr().out == first
    assert len(site.asked) == asked


def test_a_failure_is_one_sentence(
    tmp_path: Path, site: Website, capsys: pytest.CaptureFixture[str]
) -> None:
    site.files.clear()
    assert main(["fetch", "banking77", "--cache", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: http://127.0.0.1:")
    assert not list((tmp_path / "datasets").rglob("*.csv"))
