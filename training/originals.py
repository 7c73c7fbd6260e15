"""The files of public data sets, as their publishers made them, become folders that training reads.

Each function takes the downloaded files, which have the expected hashes, and an empty folder.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from training.archives import read_archive
from training.matrices import read_vectors
from training.takes import DIGITS

FLOWERS = Path(__file__).parent / "flower_classes.txt"  # in the order of the labels, from 1 on
FLOWER_SPLITS = {"train": "trnid", "valid": "valid", "test": "tstid"}
CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
CIFAR_BATCH = re.compile(r"(data_batch_\d|test_batch)\.bin")
CIFAR_ROW = 1 + 3 * 32 * 32  # bytes: the label, then all red, all green, all blue values
DIGIT = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)\.wav")
SENTIMENTS = {"0": "negative", "1": "positive"}
SENTIMENT_SPLITS = {"SST-2/train.tsv": "train", "SST-2/dev.tsv": "valid"}


def lay_out_flowers(files: Sequence[Path], folder: Path) -> None:
    """jpg/image_<number>.jpg -> {train,valid,test}/<flower>/image_<number>.jpg"""
    archive, labels, splits = files
    flowers = FLOWERS.read_text(encoding="utf-8").splitlines()
    kinds = read_vectors(labels)["labels"]  # of image 1, 2, ...
    numbers = read_vectors(splits)
    places = {
        f"image_{number:05}.jpg": Path(split, flowers[kinds[number - 1] - 1])
        for split, variable in FLOWER_SPLITS.items()
        for number in numbers[variable]
    }
    for name, content in read_archive(archive):
        image = PurePosixPath(name).name
        if place := places.get(image):
            _write(folder / place / image, content)


def lay_out_cifar(files: Sequence[Path], folder: Path) -> None:
    """data_batch_<n>.bin, test_batch.bin -> {train,test}/<class>/<batch>_<number>.png"""
    (archive,) = files
    for name, content in read_archive(archive):
        batch = PurePosixPath(name)
        if not CIFAR_BATCH.fullmatch(batch.name):
            continue
        split = "test" if batch.stem == "test_batch" else "train"
        for number, row in enumerate(np.frombuffer(content, np.uint8).reshape(-1, CIFAR_ROW)):
            pixels = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)  # uint8[32, 32, 3]
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "PNG")
            image = Path(split, CIFAR_CLASSES[row[0]], f"{batch.stem}_{number:05}.png")
            _write(folder / image, png.getvalue())


def lay_out_digits(files: Sequence[Path], folder: Path) -> None:
    """recordings/<digit>_<speaker>_<take>.wav -> <word>/<speaker>_<take>.wav"""
    (archive,) = files
    for name, content in read_archive(archive):
        if match := DIGIT.fullmatch(PurePosixPath(name).name):
            take = f"{match['speaker']}_{int(match['take']):02}.wav"
            _write(folder / DIGITS[int(match["digit"])] / take, content)


def lay_out_sentiment(files: Sequence[Path], folder: Path) -> None:
    """SST-2/{train,dev}.tsv with sentence,label -> {train,valid}.csv; test.tsv has no labels."""
    (archive,) = files
    for name, content in read_archive(archive):
        if split := SENTIMENT_SPLITS.get(name):
            lines = io.StringIO(content.decode())
            rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)  # " is a word
            texts = ((row["sentence"].strip(), SENTIMENTS[row["label"]]) for row in rows)
            _write_table(folder / f"{split}.csv", texts)


def lay_out_intents(files: Sequence[Path], folder: Path) -> None:
    """{train,test}.csv with text,category -> the same with text,label"""
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            _write_table(folder / path.name, ((row["text"], row["category"]) for row in rows))


def _write_table(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(rows)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
