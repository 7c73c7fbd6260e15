"""Package: somebody's ONNX file is inspected, described, proven and served."""

import argparse
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from service.errors import SensoriumError
from service.model.model import Model, load
from service.model.preprocessing.audio import AudioPreprocessing
from service.model.preprocessing.image import ImagePreprocessing
from service.model.preprocessing.text import TextPreprocessing
from service.model.tasks.classify import ClassifySpec
from service.settings import Settings
from tests.conftest import COLOURS, LOUDNESS, WORDS, tone, write_words
from tests.servers import PROJECT, served
from training import evaluation, packaging
from training.errors import FolderExists
from training.export import export
from training.packaging import Unclear

LABELS = ("ash", "birch", "oak", "elm")
GREATEST_DIFFERENCE = 1e-4
SPECTROGRAM = """
<ir_version: 9, opset_import: ["" : 18]>
bands (float[N,20,51] spectrogram) => (float[N,20] vector)
<int64[1] time = {2}> {
    vector = ReduceMean<keepdims = 0>(spectrogram, time)
}
"""


class Leaves(nn.Module):
    """As timm exports, by its names: float32[N, 3, 32, 32] -> logits float32[N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 16, 5, stride=4)
        self.classifier = nn.Linear(16, len(LABELS))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        scores: Tensor = self.classifier(self.features(input).relu().mean(dim=(2, 3)))
        return scores


class Sentiment(nn.Module):
    """As Hugging Face exports: int64[N, L] three times -> logits float32[N, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 16)
        self.types = nn.Embedding(2, 16)
        self.classifier = nn.Linear(16, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(2).float()
        words = (self.words(input_ids) + self.types(token_type_ids)) * mask
        scores: Tensor = self.classifier(words.sum(dim=1) / mask.sum(dim=1))
        return scores


@pytest.fixture(autouse=True)
def labels(tmp_path: Path) -> None:
    """What people have beside their graph."""
    (tmp_path / "leaves.txt").write_text("".join(f"{label}\n" for label in LABELS))
    (tmp_path / "leaf.png").write_bytes(leaf())
    (tmp_path / "config.json").write_text('{"id2label": {"1": "good", "0": "bad"}}')
    shutil.copy(write_words(tmp_path / "other") / "tokenizer.json", tmp_path)
    (tmp_path / "example.txt").write_text("red cat sea")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Leaves, Sentiment]:
    """Both networks, with random weights, and the folder of their graphs."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    leaves, sentiment = Leaves(), Sentiment()
    pictures = {"input": torch.zeros(2, 3, 32, 32)}
    export(leaves, pictures, ["output"], {"input": {0: "batch"}}, folder / "leaves.onnx")
    names = ("input_ids", "attention_mask", "token_type_ids")
    tokens = {name: torch.ones(2, 5, dtype=torch.int64) for name in names}
    axes = {name: {0: "batch", 1: "length"} for name in names}
    export(sentiment, tokens, ["logits"], axes, folder / "sentiment.onnx")
    return folder, leaves, sentiment


@pytest.fixture
def leaves(tmp_path: Path, exported: tuple[Path, Leaves, Sentiment]) -> Leaves:
    folder, network, _ = exported
    shutil.copy(folder / "leaves.onnx", tmp_path)
    return network


@pytest.fixture
def sentiment(tmp_path: Path, exported: tuple[Path, Leaves, Sentiment]) -> Sentiment:
    folder, _, network = exported
    shutil.copy(folder / "sentiment.onnx", tmp_path)
    return network


def leaf() -> bytes:
    """A picture with something to see."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def package(folder: Path, command: str) -> None:
    """One command, in a folder with the user's files; the new model lies in models/."""
    parser = argparse.ArgumentParser()
    packaging.add_arguments(parser)
    words = [str(folder / word) if (folder / word).is_file() else word for word in command.split()]
    packaging.run(parser.parse_args([*words, "--models", str(folder / "models")]))


def opened(folder: Path) -> Model:
    return load(folder, Settings(threads=1))


LEAVES = "leaves.onnx --modality image --name leaves --imagenet --labels leaves.txt"
PICTURE = "--example leaf.png --crop 0.875"
SENTIMENT = (
    "sentiment.onnx --modality text --name sentiment --tokenizer tokenizer.json --max-length 12"
    " --labels config.json --example example.txt"
)


def test_a_picture_network_in_timms_style_answers_like_pytorch(
    tmp_path: Path, leaves: Leaves
) -> None:
    package(tmp_path, f"{LEAVES} {PICTURE} --licence MIT --source timm --data leaves")
    model = opened(tmp_path / "models/leaves/1")
    spec = model.manifest.preprocessing
    assert isinstance(spec, ImagePreprocessing)
    assert (spec.layout, spec.size, spec.crop) == ("NCHW", (32, 32), 0.875)
    assert model.labels == LABELS
    assert model.manifest.origin.licence == "MIT"
    # Pillow and PyTorch alone, as torchvision's transforms would do it: resize, crop, normalise.
    box = (60 - 35) / 2, (40 - 35) / 2, (60 + 35) / 2, (40 + 35) / 2
    picture = Image.open(tmp_path / "leaf.png").resize((32, 32), Image.Resampling.BICUBIC, box)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.inference_mode():
        right = leaves(((pixels - mean) / std)[None]).softmax(dim=1)[0].numpy()
    [answer] = model.answers([model.decode(leaf())])
    assert np.abs(answer["classify"] - right).max() < GREATEST_DIFFERENCE


def test_a_text_classifier_in_hugging_faces_style_answers_like_pytorch(
    tmp_path: Path, sentiment: Sentiment
) -> None:
    package(tmp_path, SENTIMENT)
    model = opened(tmp_path / "models/sentiment/1")
    spec = model.manifest.preprocessing
    assert isinstance(spec, TextPreprocessing)
    assert spec.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert model.labels == ("bad", "good")
    texts = {b"red cat sea": [2, 5, 7], b"dog": [6]}  # of unlike length: the mask has to be right
    answers = model.answers([model.decode(text) for text in texts])
    for answer, tokens in zip(answers, texts.values(), strict=True):
        ids = torch.tensor([tokens])
        with torch.inference_mode():
            scores = sentiment(ids, torch.ones_like(ids), torch.zeros_like(ids))
        right = scores.softmax(dim=1)[0].numpy()
        assert np.abs(answer["classify"] - right).max() < GREATEST_DIFFERENCE


def test_both_are_served_and_evaluated_there(
    tmp_path: Path, leaves: Leaves, sentiment: Sentiment, capsys: pytest.CaptureFixture[str]
) -> None:
    del leaves, sentiment  # their files are what counts
    package(tmp_path, f"{LEAVES} {PICTURE}")
    package(tmp_path, SENTIMENT)
    expected = {
        name: json.loads((tmp_path / f"models/{name}/1/example.json").read_text())["classify"]
        for name in ("leaves", "sentiment")
    }
    with served(tmp_path / "models") as url, httpx.Client(base_url=url, trust_env=False) as client:
        picture = client.post("/v1/image/classify", content=leaf()).json()
        text = client.post(
            "/v1/text/classify?model=sentiment", json={"input": "red cat sea"}
        ).json()
        (tmp_path / "test.csv").write_text("text,label\nred cat,good\nblue dog,bad\n")
        evaluate = argparse.ArgumentParser()
        evaluation.add_arguments(evaluate)
        evaluation.run(evaluate.parse_args(["sentiment", "--data", str(tmp_path), "--url", url]))
    assert "sentiment version 1 on 2 of" in capsys.readouterr().out
    assert scores(picture) == pytest.approx(dict(zip(LABELS, expected["leaves"], strict=True)))
    assert scores(text) == pytest.approx(
        dict(zip(("bad", "good"), expected["sentiment"], strict=True))
    )


def scores(answer: Any) -> dict[str, float]:
    return {found["label"]: found["score"] for found in answer["results"][0]["labels"]}


def test_weights_beside_the_graph_are_taken_into_it(tmp_path: Path, leaves: Leaves) -> None:
    del leaves
    whole = onnx.load(tmp_path / "leaves.onnx")
    onnx.save(
        whole,
        tmp_path / "leaves.onnx",
        save_as_external_data=True,
        location="leaves.onnx.data",
        size_threshold=0,
    )
    package(tmp_path, f"{LEAVES} {PICTURE}")
    assert opened(tmp_path / "models/leaves/1").labels == LABELS


def test_the_proposal_and_the_examples_answer_are_shown(
    tmp_path: Path, leaves: Leaves, capsys: pytest.CaptureFixture[str]
) -> None:
    del leaves
    package(tmp_path, f"{LEAVES} {PICTURE}")
    shown = capsys.readouterr().out
    assert "leaves.onnx takes input float32[N, 3, 32, 32]" in shown
    assert "leaves.onnx gives output float32[N, 4]" in shown
    assert "layout: NCHW" in shown
    assert "the example is " in shown
    assumed = [line for line in shown.splitlines() if line.startswith("assumed, for the graph")]
    assert assumed == [
        "assumed, for the graph cannot say it: --fit crop, --resample bicubic,"
        " --activation softmax, --licence not stated, --data not stated"
    ]


@pytest.mark.parametrize(
    ("operator", "left"),
    [("Softmax", "none"), ("LogSoftmax", "log_softmax"), ("Sigmoid", "none"), ("Tanh", "softmax")],
)
def test_what_the_graph_does_itself_is_not_done_again(
    tmp_path: Path, operator: str, left: str
) -> None:
    ending = LOUDNESS.replace("logits = Concat", "both = Concat").rstrip().removesuffix("}")
    parsed(tmp_path, f"{ending} logits = {operator}(both)\n}}")
    (tmp_path / "tone.wav").write_bytes(tone(0.5))
    package(
        tmp_path,
        "graph.onnx --modality audio --name loudness --sample-rate 1000 --labels config.json"
        " --example tone.wav",
    )
    tasks = opened(tmp_path / "models/loudness/1").manifest.tasks
    assert isinstance(tasks["classify"], ClassifySpec)
    assert tasks["classify"].activation == left


def test_each_version_is_a_new_one(tmp_path: Path, leaves: Leaves) -> None:
    del leaves
    for version in (1, 2):
        package(tmp_path, f"{LEAVES} {PICTURE}")
        assert (tmp_path / f"models/leaves/{version}/manifest.yaml").is_file()
    with pytest.raises(FolderExists, match="a version never changes"):
        package(tmp_path, f"{LEAVES} {PICTURE} --version 2")


def test_uint8_pixels_need_no_mean_and_one_graph_may_do_two_things(tmp_path: Path) -> None:
    parsed(tmp_path, COLOURS)
    (tmp_path / "leaves.txt").write_text("red\ngreen\nblue\n")
    colours = "graph.onnx --modality image --name colours --labels leaves.txt --example leaf.png"
    package(tmp_path, f"{colours} --output logits --embed vector")
    manifest = opened(tmp_path / "models/colours/1").manifest
    assert isinstance(manifest.preprocessing, ImagePreprocessing)
    assert manifest.preprocessing.layout == "NHWC"
    assert manifest.preprocessing.normalise is None
    assert {name: task.output for name, task in manifest.tasks.items()} == {
        "classify": "logits",
        "embed": "vector",
    }
    with pytest.raises(Unclear, match="say --output, one of logits, vector"):
        package(tmp_path, colours)
    with pytest.raises(Unclear, match="leave --mean, --std and --imagenet out"):
        package(tmp_path, f"{colours} --output logits --imagenet")


def test_texts_become_vectors(tmp_path: Path) -> None:
    parsed(tmp_path, WORDS)
    package(
        tmp_path,
        "graph.onnx --modality text --name words --embed vector --tokenizer tokenizer.json"
        " --max-length 16 --example example.txt",
    )
    model = opened(tmp_path / "models/words/1")
    [answer] = model.answers([model.decode(b"red red sea dog")])
    assert answer["embed"] == pytest.approx([0, 0, 0.5, 0, 0, 0, 0.25, 0.25])


def test_a_waveforms_length_is_read_from_the_graph(tmp_path: Path) -> None:
    parsed(tmp_path, LOUDNESS)
    (tmp_path / "tone.wav").write_bytes(tone(0.5))
    package(
        tmp_path,
        "graph.onnx --modality audio --name loudness --sample-rate 2000 --labels config.json"
        " --example tone.wav",
    )
    spec = opened(tmp_path / "models/loudness/1").manifest.preprocessing
    assert isinstance(spec, AudioPreprocessing)
    assert (spec.seconds, spec.log_mel) == (0.5, None)


def test_a_spectrograms_length_and_bands_are_read_from_the_graph(tmp_path: Path) -> None:
    parsed(tmp_path, SPECTROGRAM)
    (tmp_path / "tone.wav").write_bytes(tone(0.5, rate=8000))
    spectrogram = "graph.onnx --modality audio --name bands --embed vector --example tone.wav"
    with pytest.raises(Unclear, match="say --window N, --hop N: the graph takes a spectrogram"):
        package(tmp_path, f"{spectrogram} --sample-rate 8000")
    package(tmp_path, f"{spectrogram} --sample-rate 8000 --window 256 --hop 160 --floor 1e-8")
    spec = opened(tmp_path / "models/bands/1").manifest.preprocessing
    assert isinstance(spec, AudioPreprocessing)
    assert spec.log_mel is not None
    assert (spec.seconds, spec.log_mel.bands, spec.log_mel.high_hz) == (1.0, 20, 4000)
    assert spec.log_mel.floor == 1e-8


def test_all_that_is_missing_is_asked_for_at_once(tmp_path: Path, leaves: Leaves) -> None:
    del leaves
    with pytest.raises(Unclear) as error:
        package(tmp_path, "leaves.onnx --modality image --name leaves")
    for flag in ("--example FILE", "--mean R G B", "--imagenet", "--labels FILE", "--embed OUTPUT"):
        assert flag in str(error.value)
    assert not (tmp_path / "models").exists()


def test_what_a_text_network_needs_is_asked_for_at_once(
    tmp_path: Path, sentiment: Sentiment
) -> None:
    del sentiment
    with pytest.raises(Unclear) as error:
        package(tmp_path, "sentiment.onnx --modality text --name s --example example.txt")
    for flag in ("--tokenizer FILE", "--max-length TOKENS", "--labels FILE"):
        assert flag in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("--labels config.json", "config.json has 2 labels; the graph gives output float32"),
        ("--labels nowhere.txt", "--labels: there is no file nowhere.txt"),
        ("--labels leaf.png", "has neither a label a line nor an id2label"),
        ("--embed vector", "--embed vector: the service takes float"),
        ("--name ../leaves", "name: String should match pattern"),
        ("--hop 160", "--hop says nothing of image"),
        ("--modality audio", "--imagenet says nothing of audio"),
        ("--example leaves.txt", "is no picture|not a supported image|cannot"),
    ],
)
def test_what_contradicts_the_graph_is_told(
    tmp_path: Path, leaves: Leaves, change: str, sentence: str
) -> None:
    del leaves
    with pytest.raises((Unclear, SensoriumError), match=sentence):
        package(tmp_path, f"{LEAVES} --example leaf.png {change}")
    assert list(tmp_path.glob("models/*/*")) == []


def test_a_text_network_with_other_inputs_is_refused(tmp_path: Path, leaves: Leaves) -> None:
    del leaves
    with pytest.raises(Unclear, match="by the names of input_ids, attention_mask, token_type_ids"):
        package(tmp_path, "leaves.onnx --modality text --name leaves --example example.txt")


def test_a_batch_that_is_fixed_is_refused_unless_it_is_one(tmp_path: Path) -> None:
    command = "graph.onnx --modality audio --name l --sample-rate 1000 --labels config.json"
    (tmp_path / "tone.wav").write_bytes(tone(0.5))
    parsed(tmp_path, LOUDNESS.replace("float[N,1000]", "float[4,1000]"))
    with pytest.raises(Unclear, match="with a dynamic batch"):
        package(tmp_path, f"{command} --example tone.wav")
    parsed(tmp_path, LOUDNESS.replace("float[N,1000]", "float[1,1000]"))
    package(tmp_path, f"{command} --example tone.wav")
    assert opened(tmp_path / "models/l/1").manifest.batching.max_batch == 1


def test_packaging_needs_no_torch() -> None:
    program = "import sys, training.packaging; print('torch' in sys.modules)"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def parsed(folder: Path, graph: str) -> None:
    onnx.save(onnx.parser.parse_model(graph), folder / "graph.onnx")
