"""List: every model folder with what it does, and why one is refused."""

import argparse
from pathlib import Path

import pytest

from service.errors import OperatorError
from tests.conftest import write_colours, write_warmth, write_words
from training import catalogue


def rows(models: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    parser = argparse.ArgumentParser()
    catalogue.add_arguments(parser)
    catalogue.run(parser.parse_args(["--models", str(models)]))
    return capsys.readouterr().out.splitlines()


def test_every_model_is_listed_heads_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = {"metric": "accuracy", "value": 0.91, "data": "six pictures"}
    write_colours(tmp_path, evaluation=[figure])
    write_warmth(tmp_path)
    write_words(tmp_path)
    heading, colours, warmth, words = rows(tmp_path, capsys)
    assert heading.split() == [*catalogue.HEADINGS]
    assert colours.split()[:5] == ["colours", "1", "image", "classify,", "embed"]
    assert "  accuracy 0.91  " in colours
    assert warmth.split()[:4] == ["warmth", "1", "image", "classify"]
    assert words.split()[:4] == ["words", "1", "text", "embed"]
    assert all(row.endswith("  verified") for row in (colours, warmth, words))
    assert len({row.index("verified") for row in (colours, warmth, words)}) == 1


def test_a_refused_model_is_listed_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_colours(tmp_path)
    (tmp_path / "colours/1/model.onnx").write_bytes(b"another graph")
    (tmp_path / "empty").mkdir()
    _, colours, empty = rows(tmp_path, capsys)
    assert "refused: " in colours
    assert "model.onnx is not the file that the manifest describes" in colours
    assert "refused: " in empty
    assert "holds no version folder" in empty


def test_the_size_is_that_of_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_colours(tmp_path)
    (folder / "notes.txt").write_bytes(bytes(2_000_000))
    assert "  2.0 MB  " in rows(tmp_path, capsys)[1]


def test_a_folder_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OperatorError, match="no such folder"):
        rows(tmp_path / "nowhere", capsys)
