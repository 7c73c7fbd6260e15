"""Quantisation: an int8 graph from stored ranges, and a gate that lets only a good one through."""

import dataclasses
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from service.limits import InputLimits
from service.model.preprocessing import build_preprocessor
from service.model.preprocessing.image import ImagePreprocessing
from service.model.tasks.classify import ClassifySpec
from service.model.tasks.embed import EmbedSpec
from service.model.types import Sample
from service.regular import sha256
from service.runtime.session import Session
from service.settings import Provider
from training.calibration import (
    CannotCalibrate,
    decode,
    find_files,
    find_texts,
    split,
)
from training.encoders import EFFICIENTNET, ENCODERS, MINILM, Encoder
from training.export import export
from training.layouts import Item
from training.likeness import (
    MIN_INT8_COSINE,
    LabelFigures,
    Unlike,
    VectorFigures,
    check_likeness,
    judge,
    measure,
)
from training.quantisation import (
    Calibration,
    CalibrationMismatch,
    Recipe,
    Verdict,
    collect_ranges,
    quantise,
    read_calibration,
    write_calibration,
)

SIZE = 16
MODELS = Path(__file__).parents[1] / "models"
RECIPE = Recipe(Path(), operators=("Conv", "Clip", "Gemm"), spared=2)
PRODUCTS = Recipe(Path(), operators=("MatMul",), spared=0, outputs=False)
SMALL = dataclasses.replace(
    EFFICIENTNET,
    preprocessing=ImagePreprocessing(modality="image", input="pixels", size=(SIZE, SIZE)),
    tasks={
        "classify": ClassifySpec(output="logits"),
        "embed": EmbedSpec(output="vector", width=16),
    },
)
GOOD = LabelFigures(
    held_out=372,
    top1_fp32=0.9,
    top1=0.895,
    agreement=0.97,
    cosine=0.99,
    batch_difference=0.0,
    speed_1=1.5,
    speed_8=1.4,
)
GOOD_VECTORS = VectorFigures(
    held_out=9000,
    head_fp32=0.9,
    head=0.897,
    cosine=0.99,
    low_cosine=0.982,
    batch_cosine=0.99999,
    speed_1=1.5,
    speed_8=1.4,
)
# A product of two activations between two that have weights, as in attention.
ATTENTIVE = """
<ir_version: 9, opset_import: ["" : 18]>
attentive (float[N,2,2] x) => (float[N,2,2] vector)
<float[2,2] a = {1, 2, 3, 4}, float[2,2] b = {0, 1, 1, 0}> {
    [first] first = MatMul(x, a)
    [second] seen = MatMul(first, x)
    [third] vector = MatMul(seen, b)
}
"""
# Its logits lean on the mean of the batch: what dynamic scales do, made plain.
NEIGHBOURLY = """
<ir_version: 9, opset_import: ["" : 18]>
neighbourly (uint8[N,16,16,3] pixels) => (float[N,3] logits, float[N,3] vector)
<int64[2] sides = {1, 2}, int64[1] batch = {0}, float scale = {255}> {
    floats = Cast<to = 1>(pixels)
    colour = ReduceMean<keepdims = 0>(floats, sides)
    vector = Div(colour, scale)
    mean = ReduceMean<keepdims = 1>(vector, batch)
    logits = Add(vector, mean)
}
"""


class ThreeConvolutions(nn.Module):
    """uint8[N, 16, 16, 3] -> logits float32[N, 4], vector float32[N, 16]; the third is int8."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 16, 3)
        self.third = nn.Conv2d(16, 16, 3)
        self.scores = nn.Linear(16, 4)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = pixels.permute(0, 3, 1, 2).float() / 255
        for layer in (self.first, self.second, self.third):
            x = torch.clamp(layer(x), 0, 6)
        vector = x.mean(dim=(2, 3))
        return self.scores(vector), vector


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graphs") / "model.onnx"
    inputs = {"pixels": torch.from_numpy(pictures(2))}
    axes = {"pixels": {0: "batch"}}
    export(ThreeConvolutions(), inputs, ("logits", "vector"), axes, path)
    return path


@pytest.fixture(scope="module")
def ranges(graph: Path) -> dict[str, tuple[float, float]]:
    return collect_ranges(graph, RECIPE, [{"pixels": pictures(8, seed)} for seed in range(4)])


def pictures(count: int, seed: int = 0) -> Any:
    """uint8[count, 16, 16, 3]: noise of a colour and a contrast of its own each."""
    generator = np.random.default_rng(seed)
    colour = generator.uniform(0, 200, (count, 1, 1, 3))
    noise = generator.uniform(0, 55, (count, SIZE, SIZE, 3))
    return (colour + noise).astype(np.uint8)


def answers(graph: Path, pixels: Any) -> Any:
    [logits] = Session(graph, Provider.CPU, 1).run({"pixels": pixels}, ["logits"])
    return logits


def operators(graph: Path) -> list[str]:
    return [node.op_type for node in onnx.load(graph).graph.node]


def calibration(ranges: dict[str, tuple[float, float]], weights: str = "0" * 64) -> Calibration:
    verdict = Verdict(
        accepted=True, reason="so", figures=GOOD, machine="here", day=date(2026, 1, 1)
    )
    return Calibration(encoder="small", weights=weights, ranges=ranges, verdict=verdict)


def small_figures(
    fp32: Path, int8: Path, encoder: Encoder = SMALL, labels: Sequence[str] = ("",) * 32
) -> LabelFigures | VectorFigures:
    preprocessor = build_preprocessor(SMALL.preprocessing, Path(), InputLimits())
    samples = [Sample(picture) for picture in pictures(32, seed=9)]
    return measure(encoder.tasks, fp32, int8, preprocessor, samples, labels, rounds=1)


def test_an_int8_graph_answers_like_fp32(
    graph: Path, ranges: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    target = tmp_path / "int8.onnx"
    quantise(graph, RECIPE, ranges, target)
    pixels = pictures(32, seed=9)
    expected, found = answers(graph, pixels), answers(target, pixels)
    assert np.abs(expected - found).max() < 0.05 * np.ptp(expected)
    assert operators(target).count("QuantizeLinear") >= 2
    onnx.checker.check_model(target, full_check=True)


def test_a_product_of_two_activations_and_what_products_give_stay_in_fp32(tmp_path: Path) -> None:
    graph, target = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    onnx.save(onnx.parser.parse_model(ATTENTIVE), graph)
    feeds = {"x": np.random.default_rng(0).random((3, 2, 2), np.float32)}
    ranges = collect_ranges(graph, PRODUCTS, [feeds])
    assert list(ranges) == ["x", "seen"]
    quantise(graph, PRODUCTS, ranges, target)
    assert operators(target).count("QuantizeLinear") == 2
    quantise(graph, dataclasses.replace(PRODUCTS, spared=1), ranges, target)
    assert operators(target).count("QuantizeLinear") == 1
    left, right = (Session(g, Provider.CPU, 1).run(feeds, ["vector"])[0] for g in (graph, target))
    np.testing.assert_allclose(left, right, atol=0.05)


def test_quantising_twice_gives_the_same_file(
    graph: Path, ranges: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        quantise(graph, RECIPE, ranges, tmp_path / name)
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")


def test_collecting_leaves_nothing_behind(
    graph: Path, ranges: dict[str, tuple[float, float]]
) -> None:
    assert ranges
    assert [path.name for path in graph.parent.iterdir()] == [graph.name]


def test_ranges_survive_a_round_trip(
    ranges: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "small.json"
    write_calibration(calibration(ranges), path)
    assert read_calibration(path, "0" * 64) == calibration(ranges)


def test_a_missing_tensor_is_named(
    graph: Path, ranges: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    name = list(ranges)[2]
    fewer = {other: range_ for other, range_ in ranges.items() if other != name}
    with pytest.raises(CalibrationMismatch, match=f"1 tensors without .* first is {name};"):
        quantise(graph, RECIPE, fewer, tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_ranges_of_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    write_calibration(calibration({}, "a" * 64), path)
    with pytest.raises(CalibrationMismatch, match="of weights aaaaaaaaaaaa, not of bbbbbbbbbbbb"):
        read_calibration(path, "b" * 64)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text("{")
    with pytest.raises(CalibrationMismatch, match=r"small\.json cannot be read"):
        read_calibration(tmp_path / "small.json", "0" * 64)


def test_a_good_variant_is_accepted() -> None:
    assert judge(GOOD) == (True, "within every limit, and faster")
    assert judge(GOOD.model_copy(update={"top1_fp32": None, "top1": None}))[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"top1": 0.87}, "top-1 falls by 0.030"),
        ({"agreement": 0.94}, "agrees with fp32 on 0.940"),
        ({"batch_difference": 0.001}, "changes by 1.0e-03 with its batch"),
        ({"speed_1": 1.05}, "it is 1.05 and 1.4 times as fast"),
        ({"speed_8": 1.1}, "it is 1.5 and 1.1 times as fast"),
        ({"agreement": float("nan")}, "agrees with fp32 on nan"),
    ],
)
def test_a_bad_variant_is_refused(change: dict[str, float], reason: str) -> None:
    accepted, why = judge(GOOD.model_copy(update=change))
    assert not accepted
    assert reason in why


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head": 0.894}, "a head's accuracy falls by 0.0060"),
        ({"cosine": 0.98}, "the mean cosine with fp32 is 0.9800"),
        ({"low_cosine": 0.979}, "a hundredth of the cosines are below 0.9790"),
        ({"batch_cosine": 0.99}, "in another batch is 0.99000"),
        ({"speed_8": 1.1}, "it is 1.5 and 1.1 times as fast"),
        ({"low_cosine": float("nan")}, "are below nan"),
    ],
)
def test_bad_vectors_are_refused(change: dict[str, float], reason: str) -> None:
    assert judge(GOOD_VECTORS)[0]
    assert judge(GOOD_VECTORS.model_copy(update={"head_fp32": None, "head": None}))[0]
    accepted, why = judge(GOOD_VECTORS.model_copy(update=change))
    assert not accepted
    assert reason in why


def test_every_reason_is_given() -> None:
    _, why = judge(GOOD.model_copy(update={"agreement": 0.5, "speed_1": 0.2}))
    assert why.count(";") == 1


def test_scales_that_are_far_too_narrow_are_found_lossy(
    graph: Path, ranges: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    narrow = {name: (low / 50, high / 50) for name, (low, high) in ranges.items()}
    quantise(graph, RECIPE, narrow, tmp_path / "int8.onnx")
    assert small_figures(graph, tmp_path / "int8.onnx").cosine < 0.99


def test_an_int8_graph_that_goes_wrong_here_is_not_taken(
    graph: Path, ranges: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    feeds = {"pixels": pictures(8, seed=9)}
    target = tmp_path / "int8.onnx"
    quantise(graph, RECIPE, ranges, target)
    assert check_likeness(graph, target, [feeds], "vector", MIN_INT8_COSINE) > 0.98
    quantise(graph, RECIPE, dict.fromkeys(ranges, (-1e-06, 1e-06)), target)
    with pytest.raises(Unlike, match=r"on this processor .* at least 0\.9 is wanted"):
        check_likeness(graph, target, [feeds], "vector", MIN_INT8_COSINE)


def test_a_graph_that_looks_at_its_neighbours_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "neighbourly.onnx"
    onnx.save(onnx.parser.parse_model(NEIGHBOURLY), path)
    figures = small_figures(path, path)
    assert isinstance(figures, LabelFigures)
    assert figures.batch_difference > 1e-3
    assert "with its batch" in judge(figures)[1]


def test_a_head_is_asked_of_both_vectors(tmp_path: Path) -> None:
    """It learns from a picture's mean colour how light it is; the other graph's is the negative."""
    colour, negative = tmp_path / "colour.onnx", tmp_path / "negative.onnx"
    onnx.save(onnx.parser.parse_model(NEIGHBOURLY), colour)
    onnx.save(onnx.parser.parse_model(NEIGHBOURLY.replace("{255}", "{-255}")), negative)
    encoder = dataclasses.replace(SMALL, tasks={"embed": EmbedSpec(output="vector", width=3)})
    light = pictures(32, seed=9).mean(axis=(1, 2, 3)) > 127
    labels = ["light" if is_light else "dark" for is_light in light]
    same = small_figures(colour, colour, encoder, labels)
    other = small_figures(colour, negative, encoder, labels)
    assert isinstance(same, VectorFigures)
    assert isinstance(other, VectorFigures)
    assert same.head_fp32 == same.head == other.head_fp32
    assert same.head_fp32 is not None
    assert same.head_fp32 > 0.8
    assert other.head is not None
    assert other.head < 0.6
    assert (same.cosine, same.low_cosine, same.batch_cosine) == pytest.approx((1, 1, 1))
    assert (other.cosine, other.low_cosine, other.batch_cosine) == pytest.approx((-1, -1, 1))
    assert small_figures(colour, colour, encoder).model_dump()["head_fp32"] is None


def test_a_choice_of_samples_depends_on_names_and_seed_alone() -> None:
    items = [Item(f"{number}.jpg", Path(f"somewhere/{number}.jpg"), "") for number in range(40)]
    calibrating, held_out = split(items, 10, "0")
    assert (len(calibrating), len(held_out)) == (10, 30)
    assert set(calibrating) | set(held_out) == set(items)
    assert split(items[::-1], 10, "0") == (calibrating, held_out)
    assert split(items, 10, "1") != (calibrating, held_out)
    with pytest.raises(CannotCalibrate, match="40 samples are too few to calibrate on 30"):
        split(items, 30, "0")


def test_a_file_without_a_class_is_named(tmp_path: Path) -> None:
    table, photos = tmp_path / "classes.csv", tmp_path / "photos"
    table.write_text("index,wordnet_id,name\n0,n01440764,tench\n")
    photos.mkdir()
    (photos / "n01440764_tench.JPEG").touch()
    (photos / "notes.txt").touch()
    assert [item.label for item in find_files([photos], (".jpeg",), table)] == ["0"]
    assert [item.label for item in find_files([photos], (".jpeg",), None)] == [""]
    (photos / "n9_nothing.JPEG").touch()
    with pytest.raises(CannotCalibrate, match=r"classes\.csv has no class 'n9'"):
        find_files([photos], (".jpeg",), table)


def test_texts_come_from_tables_and_lines_each_once(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("text,label\none,a\ntwo,b\n")
    (tmp_path / "lines.txt").write_text("three\n\ntwo\n")
    found = find_texts([tmp_path / "lines.txt", tmp_path / "table.csv"])
    assert {(item.name, item.read(), item.label) for item in found} == {
        ("one", b"one", "a"),
        ("two", b"two", "b"),
        ("three", b"three", ""),
    }


QUANTISED = [encoder for encoder in ENCODERS.values() if encoder.int8]


@pytest.mark.parametrize("encoder", QUANTISED, ids=lambda encoder: encoder.name)
def test_a_committed_verdict_is_what_the_gate_says(encoder: Encoder) -> None:
    assert encoder.int8
    found = read_calibration(encoder.int8.calibration, encoder.origin.sha256)
    assert (found.verdict.accepted, found.verdict.reason) == judge(found.verdict.figures)
    assert found.verdict.figures.held_out >= 350


def test_committed_ranges_hold_on_photographs(shared_data: Path, tmp_path: Path) -> None:
    """Acceptance: 350 photographs or more that gave no ranges; speed is not asked of a test."""
    photos = find_files(
        [shared_data / "photos"], EFFICIENTNET.suffixes, shared_data / "imagenet_classes.csv"
    )
    _, held_out = split(photos, 128, "0")
    figures = measure_built(EFFICIENTNET, held_out, tmp_path)
    assert figures.held_out >= 350
    accepted, reason = judge(figures.model_copy(update={"speed_1": 2.0, "speed_8": 2.0}))
    assert accepted, reason


def test_committed_ranges_hold_on_texts(shared_data: Path, tmp_path: Path) -> None:
    """Acceptance: texts of test splits; every sixth is enough, but for a head's accuracy."""
    tables = [shared_data / "intents/test.csv", shared_data / "sentiment/test.csv"]
    figures = measure_built(MINILM, find_texts(tables)[::6], tmp_path)
    unhurried = {"speed_1": 2.0, "speed_8": 2.0, "head_fp32": None, "head": None}
    accepted, reason = judge(figures.model_copy(update=unhurried))
    assert accepted, reason


def measure_built(
    encoder: Encoder, items: Sequence[Item], scratch: Path
) -> LabelFigures | VectorFigures:
    """The figures of the committed ranges on these items."""
    folder = MODELS / encoder.name / "1"
    if not folder.is_dir():
        pytest.skip(f"{encoder.name} is not built; make models does that")
    assert encoder.int8
    found = read_calibration(encoder.int8.calibration, encoder.origin.sha256)
    fp32, int8 = folder / "model.onnx", scratch / "int8.onnx"
    quantise(fp32, encoder.int8, found.ranges, int8)
    preprocessor = build_preprocessor(encoder.preprocessing, folder, InputLimits())
    samples, labels = decode(preprocessor, items), [item.label for item in items]
    return measure(encoder.tasks, fp32, int8, preprocessor, samples, labels, rounds=1)
