"""Fitting a head: vectors by the serving path, a small classifier, a folder that serves."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.model.model import Model, load
from service.model.preprocessing.vector import EncoderReference
from service.settings import Settings
from tests.conftest import FAINT, png, write_colours, write_model, write_words
from training import __main__
from training.layouts import Item
from training.scores import fit_temperature, score
from training.vectors import EncoderUnavailable, encode

QUICK = ("--hidden", "8", "--epochs", "12", "--lr", "0.02")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write_colours(folder)
    write_words(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Warm and cold pictures, no two alike."""
    folder = tmp_path / "pictures"
    for label, strong in (("warm", 0), ("cold", 2)):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            colour = [number, 2 * number, number]
            colour[strong] = 150 + 5 * number
            red, green, blue = colour
            (folder / label / f"{number:02}.png").write_bytes(png((red, green, blue)))
    return folder


def fit(what: str, data: Path, models: Path, *words: str | Path) -> int:
    cache = models.parent / "cache"
    options = ("--data", data, "--models", models, "--cache", cache, "--name", "mine", *words)
    return __main__.main(["fit", what, *map(str, options)])


def head(models: Path, encoder: str, version: int = 1) -> Model:
    def find(wanted: EncoderReference) -> Model:
        assert wanted.name == encoder
        return load(models / encoder / "1", Settings())

    return load(models / "mine" / str(version), Settings(), find)


def answer(model: Model, payload: bytes) -> str:
    [answers] = model.answers([model.sample(payload)])
    return model.labels[int(answers["classify"].argmax())]


def test_one_command_goes_from_pictures_to_a_folder_that_serves(
    pictures: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "warm/broken.png").write_bytes(b"no picture")
    assert fit("image", pictures, models, "--encoder", "colours", "--hidden", "8") == 0
    said = capsys.readouterr().out
    assert "It fits: 1.000 right on training data" in said
    assert "broken.png" in said
    assert "1 item skipped" in said
    assert "learning rate" in said
    model = head(models, "colours")
    assert model.labels == ("cold", "warm")
    assert answer(model, png((255, 3, 9))) == "warm"
    assert answer(model, png((7, 3, 240))) == "cold"
    assert model.manifest.origin.sha256 is None
    assert {figure.data for figure in model.manifest.evaluation} == {"validation split"}
    card = (model.folder / "card.md").read_text()
    assert "training 36, validation 4; 1 more could not be used" in card


def test_a_head_learns_of_two_encoders_joined(
    pictures: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_colours(models, "faint", graph=FAINT)
    (pictures / "warm/broken.png").write_bytes(b"no picture")
    assert fit("image", pictures, models, "--encoder", "colours", "faint", "--hidden", "8") == 0
    assert "1 item skipped" in capsys.readouterr().out

    def find(wanted: EncoderReference) -> Model:
        return load(models / wanted.name / "1", Settings())

    model = load(models / "mine/1", Settings(), find)
    assert [encoder.manifest.name for encoder in model.encoders] == ["colours", "faint"]
    assert model.manifest.kind == "image"
    assert answer(model, png((255, 3, 9))) == "warm"
    assert answer(model, png((7, 3, 240))) == "cold"
    assert "--encoder colours faint" in (model.folder / "card.md").read_text()


def test_texts_of_a_table_are_fitted_and_a_test_split_is_scored(
    tmp_path: Path, models: Path
) -> None:
    for split in ("train", "test"):
        rows = [
            {"text": f"{first} {second}", "label": label}
            for label, words in (("colour", "red green blue"), ("animal", "cat dog sea"))
            for first in words.split()
            for second in words.split()
        ]
        text = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / f"data/{split}.jsonl").parent.mkdir(exist_ok=True)
        (tmp_path / f"data/{split}.jsonl").write_text(text)
    example = tmp_path / "own.txt"
    example.write_text("cat and dog")
    words = ("--encoder", "words", "--example", example, "--credit", "ours", "--licence", "MIT")
    assert fit("text", tmp_path / "data", models, *QUICK, *words) == 0
    model = head(models, "words")
    assert answer(model, b"dog") == "animal"
    assert (model.folder / "example.txt").read_text() == "cat and dog"
    assert (model.manifest.origin.data, model.manifest.origin.licence) == ("ours", "MIT")
    assert model.manifest.evaluation[3].data == "test split"
    assert "example.txt" in (model.folder / "card.md").read_text()


def test_vectors_are_kept_and_the_same_as_those_served(pictures: Path, models: Path) -> None:
    cache = models.parent / "cache"
    items = [Item(str(path), path, "x") for path in sorted(pictures.glob("warm/*"))]
    first = encode(items, models, "colours", "image", cache)
    second = encode(items, models, "colours", "image", cache)
    assert (first.computed, second.computed) == (len(items), 0)
    for number, item in enumerate(items):
        [served] = first.encoder.answers([first.encoder.decode(item.read())])
        np.testing.assert_allclose(second.vectors[number], served["embed"], rtol=1e-6)
    [file] = cache.iterdir()
    file.write_bytes(b"damaged")
    assert encode(items, models, "colours", "image", cache).computed == len(items)


COLUMNS = """
<ir_version: 9, opset_import: ["" : 18]>
columns (uint8[N,8,8,3] pixels) => (float[N,8] vector)
<int64[2] others = {1, 3}> {
    floats = Cast<to = 1>(pixels)
    vector = ReduceMean<keepdims = 0>(floats, others)
}
"""


def test_a_mirrored_picture_is_seen_from_behind(tmp_path: Path, models: Path) -> None:
    write_model(
        models,
        COLUMNS,
        name="columns",
        preprocessing={"modality": "image", "input": "pixels", "size": [8, 8]},
        tasks={"embed": {"output": "vector", "width": 8}},
        example={"file": "example.png", "tolerance": {"fp32": 1e-4}},
        files={"example.png": png((200, 30, 40))},
    )
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :2] = 90
    Image.fromarray(pixels).save(tmp_path / "left.png")
    items, cache = [Item("left", tmp_path / "left.png", "x")], tmp_path / "cache"
    seen = encode(items, models, "columns", "image", cache)
    behind = encode(items, models, "columns", "image", cache, mirrored=True)
    assert (seen.computed, behind.computed) == (1, 1)
    np.testing.assert_array_equal(seen.vectors[0], [90, 90, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(behind.vectors[0], [0, 0, 0, 0, 0, 0, 90, 90])
    assert encode(items, models, "columns", "image", cache, mirrored=True).computed == 0


@pytest.mark.parametrize("encoder", ["nobody", "words"])
def test_an_encoder_that_cannot_be_used_is_named(models: Path, encoder: str) -> None:
    with pytest.raises(EncoderUnavailable, match=encoder):
        encode([], models, encoder, "image", models.parent / "cache")


def test_the_same_seed_gives_the_same_graph_and_another_gives_another(
    pictures: Path, models: Path
) -> None:
    hashes = []
    for number, seed in enumerate(("1", "1", "2"), start=1):
        assert fit("image", pictures, models, "--encoder", "colours", *QUICK, "--seed", seed) == 0
        hashes.append(head(models, "colours", number).graph.sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_version_is_never_overwritten_unasked(
    pictures: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "mine/3").mkdir(parents=True)
    assert fit("image", pictures, models, "--version", "3") == 1
    assert "3 exists" in capsys.readouterr().err


def test_a_class_with_too_few_pictures_stops_with_its_name(
    pictures: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "mild").mkdir()
    (pictures / "mild/only.png").write_bytes(png((90, 90, 90)))
    assert fit("image", pictures, models, "--encoder", "colours") == 1
    assert "class mild has 1 of the 2 items" in capsys.readouterr().err


def test_an_example_that_cannot_be_read_is_refused(
    pictures: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = models / "colours/1/labels.txt"
    assert fit("image", pictures, models, "--encoder", "colours", "--example", labels) == 1
    assert "labels.txt" in capsys.readouterr().err


def test_scores_of_answers_that_are_known() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    found = score(probabilities.log(), torch.tensor([0, 0, 1, 1]))
    assert found.accuracy == pytest.approx(3 / 4)
    assert found.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found.calibration_error == pytest.approx(3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.2)


def test_the_temperature_makes_confidence_honest() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5000, 3, generator=random)
    labels = torch.multinomial(logits.softmax(1), 1, generator=random).flatten()
    overconfident = (2 * logits).log_softmax(1)
    assert fit_temperature(overconfident, labels) == pytest.approx(2.0, rel=0.1)
    assert math.isclose(fit_temperature(logits.log_softmax(1), labels), 1.0, rel_tol=0.1)
