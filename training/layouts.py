"""Layouts of labelled data: one folder per class, or tables.

DIR/<class>/files                           DIR/{train,valid,test}/<class>/files
FILE.csv or FILE.jsonl with text,label      DIR/{train,valid,test}.csv or .jsonl

A table of several modalities has the columns image, audio (paths, from the table's folder) and
text, as many as there are, and label; a cell may be empty.
"""

import csv
import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.model.preprocessing import MODALITIES
from service.model.specs import Kind, Modality
from training.errors import BadData

Split = Literal["train", "valid", "test"]
SPELLINGS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test",),
}
TABLES = (".csv", ".jsonl")
FEWEST = 2  # items of a class: one for training, one for validation


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled file, or one text of a table."""

    name: str  # its place, for messages
    content: Path | str
    label: str

    def read(self) -> bytes:
        """The file as a client of the service would send it.

        Raises:
            OSError: the file cannot be read.
        """
        if isinstance(self.content, Path):
            return self.content.read_bytes()
        return self.content.encode()


@dataclass(frozen=True, slots=True)
class LabelledData:
    """The data by split; a missing split is empty."""

    labels: tuple[str, ...]  # in the order of the model's output
    splits: Mapping[Split, tuple[Item, ...]]
    skipped: tuple[str, ...]  # one sentence per item without a usable label

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, split by split."""
        return tuple(item for found in self.splits.values() for item in found)

    def numbers(self, places: Sequence[int]) -> NDArray[np.int64]:
        """The labels of some items as int64[n], by their places among all."""
        items, numbers = self.items, {label: n for n, label in enumerate(self.labels)}
        return np.array([numbers[items[place].label] for place in places], np.int64)


def find_items(data: Path, modality: Modality) -> LabelledData:
    """The labelled items in `data`, in any of the layouts; hidden files are skipped.

    Raises:
        BadData: there is no such layout, or fewer than two classes.
    """
    skipped: list[str] = []
    sources = _sources(data, modality)
    found = {split: list(_items(source, skipped)) for split, source in sources}
    return _label_splits(data, found, skipped)


def find_rows(data: Path) -> tuple[LabelledData, dict[str, Mapping[Modality, Item]]]:
    """The rows of a table of several modalities, and the files and texts of each, by its name.

    A row stands among the items with the first of its parts.

    Raises:
        BadData: there is no such table, or fewer than two classes.
    """
    skipped: list[str] = []
    parts: dict[str, Mapping[Modality, Item]] = {}
    found: dict[Split, list[Item]] = {}
    for split, table in _sources(data, "multimodal"):
        if table.is_dir():
            raise BadData(f"{data} holds no table of rows with label and image, text or audio")
        rows = dict(_parts_in_table(table, skipped))
        found[split] = [next(iter(row.values())) for row in rows.values()]
        parts |= rows
    return _label_splits(data, found, skipped), parts


def check_labels(labels: Iterable[str]) -> None:
    """Raises:
    BadData: one cannot be written to labels.txt.
    """
    for label in labels:
        try:
            label.encode()
        except UnicodeEncodeError:
            raise BadData(f"the class {label!r} is not named in UTF-8; rename it") from None


def _label_splits(
    data: Path, found: Mapping[Split, Sequence[Item]], skipped: list[str]
) -> LabelledData:
    training = found.get("train", [])
    labels = sorted({item.label for item in training})
    check_labels(labels)
    if len(labels) < 2:
        raise BadData(
            f"{data} holds {'1 class' if labels else 'no classes'} to train on, two are needed:"
            " DIR/<class>/files, DIR/{train,valid,test}/<class>/files, or a table with the columns"
            " text,label"
        )
    splits: dict[Split, tuple[Item, ...]] = {"train": tuple(training), "valid": (), "test": ()}
    for split in ("valid", "test"):
        known = [item for item in found.get(split, []) if item.label in labels]
        splits[split] = tuple(known)
        skipped += [
            f"{item.name}: nothing of its class {item.label} is among the training items"
            for item in found.get(split, [])
            if item.label not in labels
        ]
    return LabelledData(tuple(labels), splits, tuple(skipped))


def hold_out(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Whether each item is for validation, bool[n]: a share of every class, at least one.

    Args:
        labels: int64[n], two or more of every class.
    """
    random = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held[members[: max(1, round(share * len(members)))]] = True
    return held


def check_splits(data: LabelledData, share: float, seed: int) -> None:
    """Check before the files are read that every class has enough items.

    Raises:
        BadData: it has, though all of them could be read.
    """
    split_items(data, range(len(data.items)), share, seed, len(data.skipped))


def split_items(
    data: LabelledData, readable: Container[int], share: float, seed: int, skipped: int
) -> dict[Split, list[int]]:
    """The places, among all items, of those that can be read; empty splits are left out.

    Args:
        share: of the training items, held out to choose by where there is no validation split.
        skipped: how many items could not be used, for the error's sentence.

    Raises:
        BadData: a class has too few items to train on and to choose by.
    """
    items, places = data.items, iter(range(len(data.items)))
    splits: dict[Split, list[int]] = {
        split: [place for place in islice(places, len(found)) if place in readable]
        for split, found in data.splits.items()
    }
    fewest = 1 if splits["valid"] else FEWEST
    counts = Counter(items[place].label for place in splits["train"])
    for label in data.labels:
        if counts[label] < fewest:
            lost = f" ({skipped} items were skipped, see above)" if skipped else ""
            raise BadData(
                f"class {label} has {counts[label]} of the {fewest} items that are needed to train"
                f" and to choose by{lost}; add some, or remove the class"
            )
    if not splits["valid"]:
        held = hold_out(data.numbers(splits["train"]), share, seed)
        pairs = list(zip(splits["train"], held, strict=True))
        splits["train"] = [place for place, out in pairs if not out]
        splits["valid"] = [place for place, out in pairs if out]
    return {split: chosen for split, chosen in splits.items() if chosen}


def _sources(data: Path, kind: Kind) -> Iterator[tuple[Split, Path]]:
    """Each split with the folder of classes, or the table, that holds it."""
    if not data.exists():
        raise BadData(f"there is no {data}; --data wants a folder or a table")
    if data.is_file():
        _check_table(data, kind)
        yield "train", data
        return
    found = [
        (split, path)
        for split, names in SPELLINGS.items()
        for name in names
        for path in (data / name, *(data / f"{name}{ending}" for ending in TABLES))
        if path.exists()
    ]
    if not any(split == "train" for split, _ in found):
        yield "train", data  # folders of classes, one of which may be called test
        return
    for split, path in found:
        if [other for other, _ in found].count(split) > 1:
            raise BadData(f"{data} holds the {split} split twice: {path.name} and another")
        if path.is_file():
            _check_table(path, kind)
        yield split, path


def _check_table(path: Path, kind: Kind) -> None:
    if kind not in ("text", "multimodal"):
        raise BadData(f"{path} is a file; a model of {kind} needs a folder: DIR/<class>/files")
    if path.suffix.lower() not in TABLES:
        raise BadData(f"{path} is neither a .csv nor a .jsonl table with text,label")


def _items(source: Path, skipped: list[str]) -> Iterator[Item]:
    return _in_folders(source, skipped) if source.is_dir() else _in_table(source, skipped)


def _in_folders(folder: Path, skipped: list[str]) -> Iterator[Item]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            skipped.append(f"{entry}: lies in no folder of a class")
            continue
        for path in sorted(entry.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield Item(str(path), path, _label(entry.name))


def _in_table(table: Path, skipped: list[str]) -> Iterator[Item]:
    for name, label, row in _labelled_rows(table, ("text", "label"), skipped):
        if text := _cell(row, "text"):
            yield Item(name, text, label)
        else:
            skipped.append(f"{name}: has no text")


def _parts_in_table(
    table: Path, skipped: list[str]
) -> Iterator[tuple[str, Mapping[Modality, Item]]]:
    """(where it stands, its parts) of every row."""
    for name, label, row in _labelled_rows(table, ("label",), skipped):
        contents: dict[Modality, Path | str] = {
            m: cell if m == "text" else table.parent / cell
            for m in MODALITIES
            if (cell := _cell(row, m))
        }
        if contents:
            yield name, {m: Item(name, content, label) for m, content in contents.items()}
        else:
            skipped.append(f"{name}: has no image, text or audio")


def _labelled_rows(
    table: Path, columns: Sequence[str], skipped: list[str]
) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """(where it stands, label, columns) of every row that has a label."""
    for line, row in _rows(table, columns):
        name = f"{table}, {line}"
        if label := _label(str(row.get("label") or "")):
            yield name, label, row
        else:
            skipped.append(f"{name}: has no label")


def _cell(row: Mapping[str, object], column: str) -> str:
    """The text of a cell; empty if it is blank."""
    value = row.get(column)
    return value if isinstance(value, str) and value.strip() else ""


def _rows(table: Path, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(where it stands, columns) of every row."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix.lower() == ".jsonl":
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield f"line {number}", _parse(line, f"{table}, line {number}")
                return
            reader = csv.DictReader(file)
            if not set(columns) <= set(reader.fieldnames or ()):
                found = ",".join(reader.fieldnames or ())
                raise BadData(f"{table} has the columns {found}, not {','.join(columns)}")
            for number, row in enumerate(reader, start=1):
                yield f"row {number}", row
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{table} is not a table in UTF-8: {error}") from error


def _parse(line: str, where: str) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadData(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadData(f'{where}: not an object {{"text": ..., "label": ...}}')
    return row


def _label(name: str) -> str:
    """In one line, since labels.txt has one a line."""
    return " ".join(name.split())
