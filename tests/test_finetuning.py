"""Finetuning and networks from scratch: whole graphs, learned from made pictures, texts, sounds."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from service.model.model import Model, load
from service.settings import Settings
from tests.conftest import wav
from tests.servers import PROJECT
from training.__main__ import main
from training.finetune import choose_layers
from training.images import vary_images
from training.networks.classifier import Classifier
from training.networks.efficientnet import EfficientNetLite
from training.networks.finetuned import ImageClassifier, TextClassifier
from training.networks.image import PixelNet
from training.networks.minilm import MiniLM
from training.networks.spectrogram import SpectrogramNet
from training.scores import divide_scores
from training.texts import hide_tokens

WEIGHTS = PROJECT / ".cache/weights"
needs_weights = pytest.mark.skipif(
    not WEIGHTS.exists(), reason="no pretrained weights; `make models` brings them"
)


def fit(what: str, mode: str, folder: Path, *words: str) -> Model:
    """Run the command on `folder`/data; the model that it wrote."""
    cache = folder / "cache"
    cache.mkdir()
    (cache / "weights").symlink_to(WEIGHTS)
    places = ("--data", folder / "data", "--models", folder / "models", "--cache", cache)
    options = ("--mode", mode, *map(str, places), "--name", "mine", "--threads", "1", *words)
    assert main(["fit", what, *options]) == 0
    return load(folder / "models/mine/1", Settings())


def answer(model: Model, payload: bytes) -> str:
    [answers] = model.answers([model.sample(payload)])
    return model.labels[int(answers["classify"].argmax())]


def stripes(direction: str, seed: int) -> bytes:
    """A picture of stripes in two colours of its own."""
    chance = np.random.default_rng(seed)
    colours = chance.integers(0, 255, (2, 3)).astype(np.uint8)
    rows = colours[np.arange(32) // chance.integers(2, 6) % 2]  # uint8[32, 3]
    pixels = np.repeat(rows[:, None], 32, axis=1)
    file = io.BytesIO()
    Image.fromarray(pixels if direction == "lying" else pixels.swapaxes(0, 1)).save(file, "PNG")
    return file.getvalue()


def sweep(direction: str, seed: int) -> bytes:
    """A second of a tone that rises or falls."""
    chance = np.random.default_rng(seed)
    start, end = sorted(chance.uniform([200, 900], [500, 2000]))
    pitch = np.linspace(start, end, 16_000)
    if direction == "falls":
        pitch = pitch[::-1]
    return wav(chance.uniform(0.1, 0.9) * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000), 16_000)


def write_pictures(folder: Path, count: int) -> None:
    for direction in ("lying", "upright"):
        (folder / "data" / direction).mkdir(parents=True)
        for seed in range(count):
            path = folder / "data" / direction / f"{seed}.png"
            path.write_bytes(stripes(direction, seed))


def test_pictures_are_learned_from_scratch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path, 40)
    (tmp_path / "data/lying/broken.png").write_bytes(b"no picture")
    words = ("--size", "16", "--epochs", "12", "--batch", "16")
    model = fit("image", "scratch", tmp_path, *words)
    assert "1 item skipped" in capsys.readouterr().out
    new = [stripes(direction, seed) for direction in model.labels for seed in range(100, 110)]
    right = [answer(model, payload) for payload in new].count("lying")
    assert [answer(model, payload) for payload in new[:10]].count("lying") >= 9
    assert right <= 11
    assert "convolutions" in (model.folder / "card.md").read_text()
    assert "<img" in (model.folder / "report.html").read_text()


def test_sounds_are_learned_from_scratch(tmp_path: Path) -> None:
    for direction in ("falls", "rises"):
        (tmp_path / "data" / direction).mkdir(parents=True)
        for seed in range(30):
            path = tmp_path / "data" / direction / f"{seed}.wav"
            path.write_bytes(sweep(direction, seed))
    model = fit("audio", "scratch", tmp_path, "--epochs", "10", "--batch", "16")
    for direction in model.labels:
        given = [answer(model, sweep(direction, seed)) for seed in range(100, 110)]
        assert given.count(direction) >= 9


@needs_weights
@pytest.mark.parametrize("random", [False, True])
def test_texts_finetune_an_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], random: bool
) -> None:
    things = {"food": ["soup", "bread", "rice", "cake", "fish"], "rain": ["storm", "cloud", "wind"]}
    (tmp_path / "data").mkdir()
    with (tmp_path / "data/train.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for label, words in things.items():
            for word in words:
                for phrase in ("a lot of {}", "the {} was there", "no {} today", "{} again"):
                    table.writerow([phrase.format(word), label])
    options = ("--no-head-first", "--hide", "0.1") if random else ()
    model = fit("text", "finetune", tmp_path, "--epochs", "2", "--batch", "8", *options)
    assert answer(model, b"we had some pie") == "food"
    assert answer(model, b"thunder and hail") == "rain"
    assert model.manifest.preprocessing.modality == "text"
    assert ("head: learning rate" in capsys.readouterr().out) is not random
    assert ("--no-head-first --hide 0.1" in (model.folder / "card.md").read_text()) is random
    graph = (model.folder / model.graph.file).stat().st_size
    assert graph > 80e6, "the folder holds the whole graph"


@needs_weights
def test_pictures_finetune_an_encoder(tmp_path: Path) -> None:
    write_pictures(tmp_path, 16)
    model = fit("image", "finetune", tmp_path, "--epochs", "2", "--batch", "8")
    for direction in model.labels:
        given = [answer(model, stripes(direction, seed)) for seed in range(100, 105)]
        assert given.count(direction) >= 4


def test_an_encoder_of_another_modality_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path, 4)
    options = ("--data", str(tmp_path / "data"), "--name", "mine", "--models", str(tmp_path))
    words = ("fit", "image", "--mode", "finetune", "--encoder", "all-minilm-l6-v2", *options)
    assert main(words) == 1
    assert "all-minilm-l6-v2 reads text, not image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoder", "whole"), [(MiniLM, TextClassifier), (EfficientNetLite, ImageClassifier)]
)
def test_the_first_layers_step_least_and_none_is_left_out(
    encoder: type[nn.Module], whole: type[TextClassifier | ImageClassifier]
) -> None:
    network = whole(encoder(), Classifier(torch.randn(4, 7), 5, 3))
    layers = choose_layers(network, encoder_rate=0.1, first_rate=0.5)
    scales = [group.scale for group in layers]
    assert scales == sorted(scales, reverse=True)
    assert scales[:2] == [1, pytest.approx(0.1)]
    assert scales[-1] == pytest.approx(0.05)
    grouped = sum(weights.numel() for group in layers for weights in group.parameters)
    left_out = sum(w.numel() for name, w in network.named_parameters() if ".fc." in name)
    assert grouped + left_out == sum(weights.numel() for weights in network.parameters())


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (Classifier(torch.randn(9, 7), 5, 3), torch.randn(4, 7)),
        (SpectrogramNet(3, 16), torch.randn(4, 16, 20)),
        (PixelNet(3), torch.randint(256, (4, 16, 16, 3), dtype=torch.uint8)),
    ],
)
def test_a_temperature_divides_the_scores_of_every_network(
    network: nn.Module, inputs: Tensor
) -> None:
    with torch.no_grad():
        before = network.eval()(inputs)
        divide_scores(network, 2.5)
        torch.testing.assert_close(network(inputs), (before / 2.5).log_softmax(dim=1))


@needs_weights
def test_hidden_words_are_masked_and_special_tokens_stay() -> None:
    [tokenizer] = WEIGHTS.glob("*/tokenizer.json")
    ids = torch.tensor([[101, *range(2000, 2060), 102, 0, 0]] * 50)
    mask = (ids > 0).long()
    found, same = hide_tokens(tokenizer, 0.3)((ids, mask), torch.Generator().manual_seed(0))
    assert torch.equal(same, mask)
    assert set(found[found != ids].tolist()) == {103}
    assert torch.equal(found[:, [0, -3, -2, -1]], ids[:, [0, -3, -2, -1]])
    assert 0.25 < (found != ids)[:, 1:61].float().mean() < 0.35


def test_varied_pictures_stay_pictures_and_differ() -> None:
    pixels = torch.zeros(64, 16, 16, 3, dtype=torch.uint8)
    pixels[:, :, 8:, 0] = 200  # red on the right
    random = torch.Generator().manual_seed(0)
    [varied] = vary_images((pixels,), random)
    assert (varied.shape, varied.dtype) == (pixels.shape, torch.uint8)
    left, right = varied[:, :, :4, 0].float(), varied[:, :, -4:, 0].float()
    mirrored = left.mean(dim=(1, 2)) > right.mean(dim=(1, 2))
    assert 16 < mirrored.sum() < 48
    assert varied[:, :, :, 1:].max() < 40, "the colours stay"
    assert len({picture.numpy().tobytes() for picture in varied}) == 64
