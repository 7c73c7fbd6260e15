"""Public data sets: from the archives of their publishers to folders that training reads."""

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.archives import pack_tar, pack_zip
from tests.conftest import png, tone
from tests.matlab import UINT8, write_vectors
from tests.website import Website, open_website
from training.datasets import PUBLIC_DATA, fetch, fetch_digits
from training.errors import DataUnavailable
from training.layouts import LabelledData, find_items

DIGITS = "free-spoken-digit-dataset-1.0.10"
TAKES = {
    f"{DIGITS}/README.md": b"# Free Spoken Digit Dataset",
    f"{DIGITS}/recordings/0_ann_0.wav": tone(0.1),
    f"{DIGITS}/recordings/0_bob_12.wav": tone(0.2),
    f"{DIGITS}/recordings/7_ann_3.wav": tone(0.3),
}


@pytest.fixture
def site() -> Iterator[Website]:
    with open_website() as website:
        yield website


@pytest.fixture
def digits(site: Website) -> str:
    """The address of an archive like that of the digits."""
    return site.publish("v1.0.10.tar.gz", pack_tar(TAKES)).url


def fetch_from(site: Website, name: str, files: dict[str, bytes], folder: Path) -> None:
    """The data set of that name, with other files for its own."""
    downloads = tuple(site.publish(path, content) for path, content in files.items())
    fetch(replace(PUBLIC_DATA[name], downloads=downloads), folder, folder.with_name("downloads"))


def splits(data: LabelledData) -> dict[str, list[tuple[str, str]]]:
    """(file or text, label) of every item."""
    return {
        split: [
            (item.content.name if isinstance(item.content, Path) else item.content, item.label)
            for item in items
        ]
        for split, items in data.splits.items()
    }


def test_flowers_lie_in_their_splits_under_their_names(tmp_path: Path, site: Website) -> None:
    pictures = {f"jpg/image_{number:05}.jpg": png((number, 0, 0)) for number in range(1, 7)}
    files = {
        "102flowers.tgz": pack_tar(pictures),
        "imagelabels.mat": write_vectors({"labels": [2, 1, 102, 1, 2, 1]}, UINT8),
        "setid.mat": write_vectors({"trnid": [6, 1, 3], "valid": [2], "tstid": [4, 5]}),
    }
    fetch_from(site, "flowers-102", files, tmp_path / "flowers")
    data = find_items(tmp_path / "flowers", "image")
    assert splits(data) == {
        "train": [
            ("image_00003.jpg", "blackberry lily"),
            ("image_00001.jpg", "hard-leaved pocket orchid"),
            ("image_00006.jpg", "pink primrose"),
        ],
        "valid": [("image_00002.jpg", "pink primrose")],
        "test": [
            ("image_00005.jpg", "hard-leaved pocket orchid"),
            ("image_00004.jpg", "pink primrose"),
        ],
    }
    assert data.splits["valid"][0].read() == pictures["jpg/image_00002.jpg"]
    assert not data.skipped


def test_small_pictures_keep_every_pixel(tmp_path: Path, site: Website) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, 32, 32, 3), np.uint8)
    rows = [
        bytes([label]) + picture.transpose(2, 0, 1).tobytes()
        for label, picture in zip((9, 0, 9), pixels, strict=True)
    ]
    files = {
        "cifar-10-batches-bin/batches.meta.txt": b"airplane\n",
        "cifar-10-batches-bin/data_batch_1.bin": rows[0] + rows[1],
        "cifar-10-batches-bin/test_batch.bin": rows[2],
    }
    fetch_from(site, "cifar-10", {"cifar-10-binary.tar.gz": pack_tar(files)}, tmp_path / "small")
    data = find_items(tmp_path / "small", "image")
    assert splits(data) == {
        "train": [("data_batch_1_00001.png", "airplane"), ("data_batch_1_00000.png", "truck")],
        "valid": [],
        "test": [("test_batch_00000.png", "truck")],
    }
    items = (data.splits["train"][1], data.splits["train"][0], data.splits["test"][0])
    for item, picture in zip(items, pixels, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(item.read()))), picture)


def test_sentiments_have_names_and_the_unlabelled_split_is_left_out(
    tmp_path: Path, site: Website
) -> None:
    files = {
        "SST-2/train.tsv": 'sentence\tlabel\n"a gem , he \t1\nno , \x85 not good \t0\n'.encode(),
        "SST-2/dev.tsv": b"sentence\tlabel\nunflinchingly bleak \t0\n",
        "SST-2/test.tsv": b"index\tsentence\n0\tuneasy mishmash of styles .\n",
        "SST-2/original/README.txt": b"",
    }
    fetch_from(site, "sst-2", {"SST-2.zip": pack_zip(files)}, tmp_path / "reviews")
    assert splits(find_items(tmp_path / "reviews", "text")) == {
        "train": [('"a gem , he', "positive"), ("no , \x85 not good", "negative")],
        "valid": [("unflinchingly bleak", "negative")],
        "test": [],
    }


def test_intents_are_labels(tmp_path: Path, site: Website) -> None:
    files = {
        "train.csv": b'text,category\r\n"So, where is it?\r\nHelp",card_arrival\r\nWhy?,refund\r\n',
        "test.csv": b"text,category\r\nHow?,refund\r\n",
    }
    fetch_from(site, "banking77", files, tmp_path / "questions")
    assert splits(find_items(tmp_path / "questions", "text")) == {
        "train": [("So, where is it?\r\nHelp", "card_arrival"), ("Why?", "refund")],
        "valid": [],
        "test": [("How?", "refund")],
    }


def test_the_published_tables_of_intents_are_the_pinned_ones(
    tmp_path: Path, shared_data: Path
) -> None:
    """The copy differs from the publisher's tables in one word of the heading."""
    for name in ("train.csv", "test.csv"):
        table = (shared_data / "intents" / name).read_bytes()
        (tmp_path / name).write_bytes(table.replace(b"text,label", b"text,category", 1))
    fetch(PUBLIC_DATA["banking77"], tmp_path / "questions", tmp_path)
    for name in ("train.csv", "test.csv"):
        with (
            (tmp_path / "questions" / name).open(encoding="utf-8", newline="") as fetched,
            (shared_data / "intents" / name).open(encoding="utf-8", newline="") as copied,
        ):
            assert list(csv.reader(fetched)) == list(csv.reader(copied))


def test_digits_are_laid_out_by_word(tmp_path: Path, digits: str) -> None:
    folder = fetch_digits(tmp_path, digits)
    assert folder == tmp_path / "spoken-digits"
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.wav"))
    assert names == ["seven/ann_03.wav", "zero/ann_00.wav", "zero/bob_12.wav"]
    assert (folder / "seven/ann_03.wav").read_bytes() == tone(0.3)


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path, site: Website, digits: str) -> None:
    folder = fetch_digits(tmp_path, digits)
    (tmp_path / "downloads/spoken-digits/v1.0.10.tar.gz").unlink()
    assert fetch_digits(tmp_path, digits) == folder
    assert len(site.asked) == 1


def test_the_folder_says_what_it_holds(tmp_path: Path, digits: str) -> None:
    folder = fetch_digits(tmp_path, digits)
    assert "licence: CC BY-SA 4.0" in (folder / ".origin.txt").read_text()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, digits: str) -> None:
    mine = tmp_path / "spoken-digits/mine.wav"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(DataUnavailable, match="is there and is not spoken-digits; choose another"):
        fetch_digits(tmp_path, digits)
    assert [path.name for path in mine.parent.iterdir()] == ["mine.wav"]


def test_an_archive_that_differs_from_the_first_download_is_refused(
    tmp_path: Path, site: Website, digits: str
) -> None:
    fetch_digits(tmp_path, digits).rename(tmp_path / "before")
    (tmp_path / "downloads/spoken-digits/v1.0.10.tar.gz").unlink()
    site.publish("v1.0.10.tar.gz", pack_tar({f"{DIGITS}/recordings/1_eve_0.wav": tone(0.4)}))
    with pytest.raises(DataUnavailable, match="is not the file that is meant"):
        fetch_digits(tmp_path, digits)
    assert not (tmp_path / "spoken-digits").exists()


@pytest.mark.parametrize(
    ("archive", "complaint"),
    [
        (pack_tar({**TAKES, "../recordings/0_eve_0.wav": b"!"}), "leads outside its folder"),
        (pack_tar(TAKES)[:-30], "cannot be unpacked"),
        (b"<html>log in to this network</html>", "cannot be unpacked"),
        (pack_tar({"README.md": b""}), "there is nothing of spoken-digits in"),
    ],
    ids=["leads outside", "cut off", "a page", "something else"],  # the bytes tell the second
)
def test_a_bad_archive_leaves_no_data_and_no_hash_to_trust(
    tmp_path: Path, site: Website, digits: str, archive: bytes, complaint: str
) -> None:
    site.publish("v1.0.10.tar.gz", archive)
    with pytest.raises(DataUnavailable, match=complaint):
        fetch_digits(tmp_path, digits)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    site.publish("v1.0.10.tar.gz", pack_tar(TAKES))
    assert fetch_digits(tmp_path, digits).is_dir()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, digits: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataUnavailable, match=r"spoken-digits cannot be written: .*file"):
        fetch_digits(tmp_path / "file", digits)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_a_full_disk_is_named(tmp_path: Path, digits: str) -> None:
    downloads = tmp_path / "downloads/spoken-digits"
    downloads.mkdir(parents=True)
    (downloads / "v1.0.10.tar.gz.partial").symlink_to("/dev/full")
    with pytest.raises(DataUnavailable, match=r"cannot be written: .* No space left on device"):
        fetch_digits(tmp_path, digits)


def test_all_hashes_are_known_but_that_of_the_digits() -> None:
    unknown = []
    for name, data in PUBLIC_DATA.items():
        assert all(wanted.url.startswith("https://") for wanted in data.downloads)
        for wanted in data.downloads:
            if wanted.sha256 is None:
                unknown.append(name)
            else:
                assert len(bytes.fromhex(wanted.sha256)) == hashlib.sha256().digest_size
    assert unknown == ["spoken-digits"]
