"""Takes: found by their layout, and told what is wrong with it."""

from pathlib import Path

import pytest

from tests.conftest import tone
from training.errors import BadData
from training.takes import find_takes


def write_takes(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tone(0.1))


def test_digits_are_labelled_in_their_own_order_and_other_words_by_the_alphabet(
    tmp_path: Path,
) -> None:
    write_takes(tmp_path, "two/a_1.wav", "one/a_1.wav", "zero/a_1.wav", "stop/a_1.wav")
    assert find_takes(tmp_path).labels == ("zero", "one", "two", "stop")


def test_a_file_name_tells_speaker_and_take_and_the_first_five_takes_are_the_test_split(
    tmp_path: Path,
) -> None:
    write_takes(tmp_path, "no/ann_04.wav", "no/mary_ann_05.wav", "yes/ann_00.wav")
    data = find_takes(tmp_path)
    assert [(take.speaker, take.take, take.is_test) for take in data.takes] == [
        ("ann", 4, True),
        ("mary_ann", 5, False),
        ("ann", 0, True),
    ]
    assert data.speakers == ("ann", "mary_ann")


def test_a_class_without_recordings_is_named(tmp_path: Path) -> None:
    write_takes(tmp_path, "yes/a_1.wav")
    (tmp_path / "no").mkdir()
    with pytest.raises(BadData, match="class no has no recordings"):
        find_takes(tmp_path)


def test_a_file_that_names_no_speaker_is_named(tmp_path: Path) -> None:
    write_takes(tmp_path, "yes/a_1.wav", "no/something.wav")
    with pytest.raises(BadData, match=r"something.wav is not named <speaker>_<take>.wav"):
        find_takes(tmp_path)


def test_a_folder_that_is_not_there_is_told_the_layout(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"there is no folder .*; --data wants"):
        find_takes(tmp_path / "nowhere")
