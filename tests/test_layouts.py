"""Labelled data in every layout that people have."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import png
from training.errors import BadData
from training.layouts import Item, LabelledData, find_items, hold_out, split_items


def write_pictures(folder: Path, names: str = "red blue", count: int = 2) -> None:
    for name in names.split():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.png").write_bytes(png((number, 0, 0)))


def test_folders_named_by_class_are_read_without_hidden_files(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "red/.DS_Store").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    data = find_items(tmp_path, "image")
    assert data.labels == ("blue", "red")
    assert [item.label for item in data.splits["train"]] == ["blue"] * 2 + ["red"] * 2
    assert not data.splits["valid"]
    assert not data.splits["test"]
    assert not data.skipped
    assert data.splits["train"][0].read() == png((0, 0, 0))


def test_a_file_in_no_folder_of_a_class_is_named_and_skipped(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    (tmp_path / "stray.png").write_bytes(png((0, 0, 0)))
    [sentence] = find_items(tmp_path, "image").skipped
    assert "stray.png: lies in no folder of a class" in sentence


@pytest.mark.parametrize("valid", ["valid", "val", "validation", "dev"])
def test_splits_are_found_by_the_names_in_use(tmp_path: Path, valid: str) -> None:
    write_pictures(tmp_path / "train", count=3)
    write_pictures(tmp_path / valid, count=2)
    write_pictures(tmp_path / "test", count=1)
    splits = find_items(tmp_path, "image").splits
    assert {split: len(items) for split, items in splits.items()} == {
        "train": 6,
        "valid": 4,
        "test": 2,
    }


def test_a_class_that_only_the_test_split_has_is_skipped(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train")
    write_pictures(tmp_path / "test", "red green", count=1)
    data = find_items(tmp_path, "image")
    assert [item.label for item in data.splits["test"]] == ["red"]
    assert "green is among the training items" in data.skipped[0]


def test_tables_are_read_from_csv_and_jsonl(tmp_path: Path) -> None:
    rows = [("a, b", "x"), ("c", "y"), ("d", ""), ("", "y")]
    lines = ['text,label\n"a, b",x\nc,y\nd,\n,y\n']
    (tmp_path / "one.csv").write_text(lines[0])
    objects = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (tmp_path / "one.jsonl").write_text("\n".join(objects))
    for name in ("one.csv", "one.jsonl"):
        data = find_items(tmp_path / name, "text")
        assert [item.read() for item in data.splits["train"]] == [b"a, b", b"c"]
        assert ["has no label" in data.skipped[0], "has no text" in data.skipped[1]] == [True] * 2


def test_a_folder_of_tables_holds_splits(tmp_path: Path) -> None:
    for name in ("train.csv", "dev.csv", "test.csv"):
        (tmp_path / name).write_text("text,label\na,x\nb,y\n")
    splits = find_items(tmp_path, "text").splits
    assert [len(items) for items in splits.values()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("table.csv", "words,class\na,x\n", "not text,label"),
        ("table.csv", "text,label\na,x\n", "holds 1 class to train on"),
        ("table.jsonl", "{no", "line 1: not JSON"),
        ("table.jsonl", "[1]", "line 1: not an object"),
        ("table.tsv", "a", "neither a .csv nor a .jsonl"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(
    tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadData, match=sentence):
        find_items(tmp_path / name, "text")


def test_what_is_not_there_or_not_for_the_modality_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="there is no"):
        find_items(tmp_path / "nothing", "text")
    (tmp_path / "train.csv").write_text("text,label\na,x\nb,y\n")
    with pytest.raises(BadData, match="a model of image needs a folder"):
        find_items(tmp_path, "image")


def test_a_share_of_every_class_is_held_out_the_same_each_time() -> None:
    labels = np.array([0] * 50 + [1] * 20 + [2] * 2)
    held = hold_out(labels, 0.1, seed=0)
    assert np.bincount(labels[held]).tolist() == [5, 2, 1]
    assert (held == hold_out(labels, 0.1, seed=0)).all()
    assert (held != hold_out(labels, 0.1, seed=1)).any()


def test_a_class_with_too_few_items_is_named() -> None:
    items = tuple(Item("", "", label) for label in ("blue", "blue", "red", "red"))
    data = LabelledData(("blue", "red"), {"train": items, "valid": (), "test": ()}, ())
    splits = split_items(data, range(4), 0.1, 0, skipped=0)
    assert {split: len(chosen) for split, chosen in splits.items()} == {"train": 2, "valid": 2}
    with pytest.raises(BadData, match="class red has 1 of the 2 items"):
        split_items(data, range(3), 0.1, 0, skipped=1)
