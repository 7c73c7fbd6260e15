"""A head on several modalities: rows of a table, some of whose cells are empty."""

import csv
from pathlib import Path

import pytest
import torch

from service.model.model import load
from service.model.preprocessing.vector import EncoderReference, VectorPreprocessing
from service.settings import Settings
from tests.conftest import png, write_colours, write_words
from tests.test_routes import serving
from training.__main__ import main
from training.multimodal import hide_parts

pytestmark = pytest.mark.anyio

RED, BLUE = png((230, 10, 10)), png((10, 10, 230))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_colours(tmp_path / "models")
    write_words(tmp_path / "models")
    return tmp_path / "models"


def write_table(folder: Path) -> Path:
    """Red or "cat" is warm, blue or "sea" is cold; some rows have one of the two only."""
    table = folder / "table.csv"
    with table.open("w") as file:
        writer = csv.DictWriter(file, ["image", "text", "label"])
        writer.writeheader()
        for number in range(36):
            label, word = (("warm", "cat"), ("cold", "sea"))[number % 2]
            strong = 180 + number
            colour = (strong, 20, number) if label == "warm" else (number, 20, strong)
            (folder / f"{number}.png").write_bytes(png(colour))
            image, text = f"{number}.png", f"{word} {'and ' * (number % 3)}"
            empty = {4: "image", 5: "image", 8: "text", 9: "text"}.get(number % 10)
            row = {"image": image, "text": text, "label": label}
            writer.writerow({**row, **({empty: ""} if empty else {})})
        writer.writerow({"image": "", "text": " ", "label": "warm"})
        writer.writerow({"image": "nowhere.png", "text": "cat", "label": "warm"})
    return table


def fit(table: Path, models: Path, *words: str) -> int:
    places = ("--data", table, "--models", models, "--cache", models.parent / "cache")
    encoders = ("--image-encoder", "colours", "--text-encoder", "words")
    options = (*map(str, places), *encoders, "--name", "mood", "--hidden", "8", "--lr", "0.02")
    return main(["fit", "multimodal", *options, *words])


async def test_a_table_becomes_a_model_that_is_served(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The command has an event loop of its own.
    import asyncio

    assert await asyncio.to_thread(fit, write_table(tmp_path), models) == 0
    said = capsys.readouterr().out
    assert "row 37: has no image, text or audio" in said
    assert "nowhere.png" in said
    async with serving(models) as client:
        for parts, expected in (
            ({"image": RED, "text": b"cat"}, "warm"),
            ({"image": BLUE, "text": b"sea"}, "cold"),
            ({"image": BLUE}, "cold"),
            ({"text": b"cat"}, "warm"),
            ({"text": b"sea"}, "cold"),
        ):
            files = {name: (name, content) for name, content in parts.items()}
            response = await client.post("/v1/multimodal/classify?model=mood", files=files)
            [result] = response.json()["results"]
            assert result["labels"][0]["label"] == expected, parts
    assert (models / "mood/1/example.png").exists()


def test_a_table_of_one_modality_names_the_right_command(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "one.csv"
    table.write_text("text,label\nred,a\nblue,b\n")
    assert fit(table, models) == 1
    assert "`fit text`" in capsys.readouterr().err


def test_a_modality_without_an_encoder_is_named(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "sounds.csv"
    table.write_text("text,audio,label\nred,a.wav,a\nblue,b.wav,b\n")
    assert fit(table, models) == 1
    assert "--audio-encoder" in capsys.readouterr().err


def test_a_folder_without_a_table_is_refused(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures/red").mkdir(parents=True)
    assert fit(tmp_path / "pictures", models) == 1
    assert "holds no table" in capsys.readouterr().err


def test_hidden_parts_are_zeros_and_one_part_always_stays() -> None:
    encoders = tuple(
        EncoderReference(name=name, modality=name, width=2, sha256="0" * 64)
        for name in ("image", "text")
    )
    spec = VectorPreprocessing(modality="vector", input="vector", encoders=encoders)
    both, image = [1.0, 2.0, 1.0, 3.0, 4.0, 1.0], [1.0, 2.0, 1.0, 0.0, 0.0, 0.0]
    vectors = torch.tensor([both] * 200 + [image] * 50)
    [varied] = hide_parts(spec, 0.4)((vectors,), torch.Generator().manual_seed(0))
    kinds = {tuple(row) for row in varied.tolist()}
    assert kinds == {tuple(both), tuple(image), (0, 0, 0, 3, 4, 1)}
    assert (varied[200:] == torch.tensor(image)).all()
    assert 60 < (varied[:200] == torch.tensor(both)).all(dim=1).sum() < 140
    assert (hide_parts(spec, 0)((vectors,), torch.Generator())[0] == vectors).all()


def test_the_written_folder_needs_both_encoders(tmp_path: Path, models: Path) -> None:
    assert fit(write_table(tmp_path), models) == 0
    with pytest.raises(Exception, match="colours with those weights is not loaded"):
        load(models / "mood/1", Settings())
