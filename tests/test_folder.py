"""Folder: a model folder appears whole and proven, or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest

from service.errors import BadModel, CallerError
from service.model.manifest import Manifest
from service.model.model import load
from service.regular import sha256
from service.settings import Settings
from tests.conftest import COLOURS, ORIGIN, png
from training.errors import FolderExists
from training.folder import Content, write_folder


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(COLOURS), path)
    return path


@pytest.fixture
def files(graph: Path) -> dict[str, Content]:
    """One of each kind of content: a path, a text, bytes."""
    return {
        "model.onnx": graph,
        "labels.txt": "red\ngreen\nblue\n",
        "example.png": png((200, 30, 40)),
        "card.md": "# Colours\n",
    }


def describe(graph: Path, **changes: Any) -> Manifest:
    content = {
        "format": 1,
        "name": "colours",
        "version": 1,
        "description": "Which colour a picture has.",
        "preprocessing": {"modality": "image", "input": "pixels", "size": [8, 8]},
        "graphs": [{"file": "model.onnx", "sha256": sha256(graph)}],
        "tasks": {"classify": {"output": "logits"}},
        "example": {"file": "example.png", "tolerance": {"fp32": 1e-4}},
        "origin": ORIGIN,
        **changes,
    }
    return Manifest.model_validate(content)


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden files and folders too; a folder's content is empty."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def test_a_folder_is_written_that_the_service_loads(
    tmp_path: Path, graph: Path, files: Mapping[str, Content]
) -> None:
    models = tmp_path / "models"
    folder = write_folder(models, describe(graph), files)
    assert folder == models / "colours/1"
    model = load(folder, Settings())
    assert model.labels == ("red", "green", "blue")
    assert {path.name for path in folder.iterdir()} == {*files, "manifest.yaml", "example.json"}
    assert [path.name for path in models.iterdir()] == ["colours"]


def test_a_failure_midway_leaves_nothing(
    tmp_path: Path, graph: Path, files: dict[str, Content]
) -> None:
    files["card.md"] = tmp_path / "there is no such file"
    with pytest.raises(FileNotFoundError):
        write_folder(tmp_path / "models", describe(graph), files)
    assert contents(tmp_path / "models") == {}


def test_an_example_that_cannot_be_read_leaves_nothing(
    tmp_path: Path, graph: Path, files: dict[str, Content]
) -> None:
    files["example.png"] = b"not a picture"
    with pytest.raises(CallerError):
        write_folder(tmp_path / "models", describe(graph), files)
    assert contents(tmp_path / "models") == {}


def test_a_folder_that_the_service_refuses_is_not_written(
    tmp_path: Path, graph: Path, files: dict[str, Content]
) -> None:
    files["labels.txt"] = "red\ngreen\n"
    with pytest.raises(BadModel):
        write_folder(tmp_path / "models", describe(graph), files)
    assert contents(tmp_path / "models") == {}


def test_a_graph_of_another_hash_is_not_written(
    tmp_path: Path, graph: Path, files: Mapping[str, Content]
) -> None:
    wrong = describe(graph, graphs=[{"file": "model.onnx", "sha256": "0" * 64}])
    with pytest.raises(BadModel, match="is not the file that the manifest describes"):
        write_folder(tmp_path / "models", wrong, files)
    assert contents(tmp_path / "models") == {}


def test_a_released_version_is_never_overwritten(
    tmp_path: Path, graph: Path, files: Mapping[str, Content]
) -> None:
    models = tmp_path / "models"
    write_folder(models, describe(graph), files)
    before = contents(models)
    with pytest.raises(FolderExists, match="a version never changes"):
        write_folder(models, describe(graph, description="Another."), files)
    assert contents(models) == before


def test_what_can_be_rebuilt_is_replaced_as_a_whole(
    tmp_path: Path, graph: Path, files: Mapping[str, Content]
) -> None:
    models = tmp_path / "models"
    old = write_folder(models, describe(graph), files)
    (old / "left over").write_text("from an older program")
    new = write_folder(models, describe(graph, description="Another."), files, replace=True)
    assert load(new, Settings()).manifest.description == "Another."
    assert "colours/1/left over" not in contents(models)
    assert [path.name for path in models.iterdir()] == ["colours"]


def test_a_replacement_that_fails_leaves_the_old_folder(
    tmp_path: Path, graph: Path, files: dict[str, Content]
) -> None:
    models = tmp_path / "models"
    write_folder(models, describe(graph), files)
    before = contents(models)
    files["labels.txt"] = "red\n"
    with pytest.raises(BadModel):
        write_folder(models, describe(graph), files, replace=True)
    assert contents(models) == before


def test_another_version_stands_beside_the_first(
    tmp_path: Path, graph: Path, files: Mapping[str, Content]
) -> None:
    models = tmp_path / "models"
    write_folder(models, describe(graph), files)
    write_folder(models, describe(graph, version=2), files)
    assert sorted(path.name for path in (models / "colours").iterdir()) == ["1", "2"]
