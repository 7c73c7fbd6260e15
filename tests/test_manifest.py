"""Hostile model folders: each is refused with a sentence that names the file and the field."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.control.repository import Repository
from service.errors import BadModel, OperatorError
from service.model.manifest import read_manifest, write_manifest
from service.model.model import load
from service.settings import Settings
from tests.conftest import COLOURS, write_colours, write_loudness, write_words

Change = Callable[[dict[str, Any]], None]


def setting(path: str, value: object) -> Change:
    """A change of one field, named as the refusals name it."""

    def change(manifest: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = manifest
        for parent in parents:
            place = place[int(parent)] if isinstance(place, list) else place[parent]
        place[last] = value

    return change


def removing(field: str) -> Change:
    return lambda manifest: manifest.pop(field)


def test_a_manifest_survives_writing_and_reading(tmp_path: Path) -> None:
    folder = write_colours(tmp_path)
    manifest = read_manifest(folder)
    write_manifest(manifest, folder)
    assert read_manifest(folder) == manifest


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (setting("colour", "blue"), "colour: Extra inputs"),
        (setting("preprocessing.sise", [8, 8]), "preprocessing.image.sise"),
        (setting("format", 2), "format"),
        (setting("version", 0), "version"),
        (setting("name", "../colours"), "name"),
        (removing("origin"), "origin"),
        (setting("preprocessing.modality", "smell"), "preprocessing"),
        (setting("preprocessing.crop", 1.5), "preprocessing.image.crop"),
        (setting("tasks", {}), "tasks"),
        (setting("graphs", []), "graphs"),
        (setting("graphs.0.file", "../model.onnx"), "graphs.0.file"),
        (setting("graphs.0.sha256", "0" * 64), "graphs.sha256: model.onnx is not the file"),
        (setting("graphs.0.precision", "int8"), "example.tolerance says nothing of int8"),
        (setting("graphs.0.file", "absent.onnx"), "graphs.0.file: there is no file absent.onnx"),
        (setting("tasks.classify.labels", "no.txt"), "tasks.classify.labels: there is no file"),
        (setting("example.file", "no.png"), "example.file: there is no file no.png"),
        (setting("card", "no.md"), "card: there is no file no.md"),
        (setting("name", "colors"), "name: colors stands in a folder colours"),
        (setting("version", 2), "version: 2 stands in a folder 1"),
        (setting("preprocessing.input", "picture"), "the graph takes pixels, the manifest gives"),
        (setting("preprocessing.size", [8, 9]), "uint8[N, 8, 8, 3], the manifest gives uint8[N, 8"),
        (setting("preprocessing.layout", "NCHW"), "preprocessing: input pixels"),
        (
            setting("preprocessing.normalise", {"mean": [0, 0, 0], "std": [1, 1, 1]}),
            "the manifest gives float32",
        ),
        (setting("tasks.classify.output", "scores"), "tasks.classify.output"),
        (setting("tasks.embed.width", 4), "tasks.embed: output vector is float32[N, 3]"),
        (setting("example.tolerance", {"fp32": -1}), "example.tolerance.fp32"),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path: Path, change: Change, field: str) -> None:
    folder = write_colours(tmp_path, change=change)
    with pytest.raises(BadModel) as refusal:
        load(folder, Settings())
    assert field in str(refusal.value)
    assert "colours" in str(refusal.value), "the sentence names the file"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (setting("preprocessing.log_mel", {"window": 9}), "preprocessing.audio.log_mel.hop"),
        (
            setting("preprocessing.log_mel", {"window": 64, "hop": 32, "bands": 8, "high_hz": 501}),
            "half the sample rate",
        ),
        (setting("preprocessing.sample_rate", 2000), "input wave is float32[N, 1000]"),
    ],
)
def test_an_audio_manifest_that_lies_is_refused(tmp_path: Path, change: Change, field: str) -> None:
    folder = write_loudness(tmp_path, change=change)
    with pytest.raises(BadModel) as refusal:
        load(folder, Settings())
    assert field in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (setting("preprocessing.pad_token", "<pad>"), "preprocessing.pad_token: <pad> is not"),
        (setting("preprocessing.tokenizer", "example.txt"), "preprocessing.tokenizer"),
        (setting("preprocessing.inputs", ["input_ids"]), "attention_mask, input_ids"),
    ],
)
def test_a_text_manifest_that_lies_is_refused(tmp_path: Path, change: Change, field: str) -> None:
    folder = write_words(tmp_path, change=change)
    with pytest.raises(BadModel) as refusal:
        load(folder, Settings())
    assert field in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    [
        *(b"a: [", b"\xff\xfe", b"- 1\n- 2\n", b"", b"!!python/none"),
        *(b"[" * 100_000, b"format: " + b"1" * 5000, b"format: 2026-13-45"),
    ],
)
def test_a_manifest_that_is_no_yaml_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_colours(tmp_path)
    (folder / "manifest.yaml").write_bytes(content)
    with pytest.raises(BadModel, match=r"manifest\.yaml"):
        read_manifest(folder)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{a: " * 100_000, b"- " * 100_000])
def test_a_manifest_that_is_nested_deeply_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_colours(tmp_path)
    (folder / "manifest.yaml").write_bytes(content)
    with pytest.raises(BadModel, match="nested more than 32 levels"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("file", "content", "field"),
    [
        ("labels.txt", b"red\ngreen\n", "tasks.classify: output logits is float32[N, 3]"),
        ("labels.txt", b"\xff\xff\xff", "tasks.classify.labels: not UTF-8"),
        ("example.json", b"[1", "example.expected"),
        ("example.json", b"[" * 100_000, "example.expected"),
        ("example.json", b'{"classify": [0, 0, 1]}', "must name exactly the manifest's tasks"),
        (
            "example.json",
            b'{"classify": [0, 0, 1], "embed": [200, 30, 40]}',
            "example.expected: classify differs by 1 in a batch of 1",
        ),
        (
            "example.json",
            b'{"classify": [NaN, 0, 0], "embed": [200, 30, 40]}',
            "example.expected: classify differs",
        ),
        ("example.png", b"no picture", "example.file: not a supported image"),
    ],
)
def test_a_folder_whose_files_disagree_is_refused(
    tmp_path: Path, file: str, content: bytes, field: str
) -> None:
    folder = write_colours(tmp_path)
    (folder / file).write_bytes(content)
    with pytest.raises(BadModel) as refusal:
        load(folder, Settings())
    assert field in str(refusal.value)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    content = b"no graph"
    hashed = setting("graphs.0.sha256", hashlib.sha256(content).hexdigest())
    folder = write_colours(tmp_path, change=hashed)
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(BadModel, match=r"model\.onnx: .*: it is not an ONNX file"):
        load(folder, Settings())


def test_a_graph_that_lost_its_dynamic_batch_is_refused(tmp_path: Path) -> None:
    fixed = COLOURS.replace("[N,", "[1,")
    with pytest.raises(BadModel, match="the graph takes batches of 1 only"):
        load(write_colours(tmp_path, graph=fixed), Settings())


def test_a_graph_for_one_picture_at_a_time_is_served_when_the_manifest_says_so(
    tmp_path: Path,
) -> None:
    fixed = COLOURS.replace("[N,", "[1,")
    folder = write_colours(tmp_path, graph=fixed, change=setting("batching.max_batch", 1))
    assert load(folder, Settings()).labels == ("red", "green", "blue")


@pytest.mark.anyio
async def test_a_model_that_is_refused_does_not_stop_the_others(small_models: Path) -> None:
    write_colours(small_models, "liar", change=setting("tasks.embed.width", 4))
    write_colours(small_models, "odd").rename(small_models / "odd/01")
    (small_models / "empty").mkdir()
    (small_models / "colours/latest").mkdir()
    (small_models / ".half-written").mkdir()
    repository = Repository(Settings(models=small_models))
    await repository.open()
    states = {(e.name, e.version): (e.state, e.reason) for e in repository.entries()}
    await repository.close()
    assert states["colours", "1"] == states["words", "1"] == ("ready", None)
    state, reason = states["liar", "1"]
    assert state == "failed"
    assert "tasks.embed" in str(reason)
    assert states["empty", "-"][0] == "failed"
    assert "a version is a positive number" in str(states["colours", "latest"][1])
    assert "without leading zeros" in str(states["odd", "01"][1])
    assert len(states) == 7


@pytest.mark.anyio
async def test_what_nobody_foresaw_fails_one_model_only(
    small_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, *args: Any) -> Any:
        if folder.parent.name == "words":
            raise MemoryError("too large")
        return load(folder, *args)

    monkeypatch.setattr("service.control.repository.load", fail)
    repository = Repository(Settings(models=small_models))
    await repository.open()
    states = {entry.name: (entry.state, entry.reason) for entry in repository.entries()}
    await repository.close()
    assert states["colours"][0] == states["loudness"][0] == "ready"
    assert states["words"][0] == "failed"
    assert "too large" in str(states["words"][1])


def test_a_missing_models_folder_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="SENSORIUM_MODELS"):
        Repository(Settings(models=tmp_path / "absent"))
