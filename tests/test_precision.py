"""Precision: which of a model's graphs runs, and that a head keeps to its example behind any."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import onnx.parser
import pytest
import yaml

from service.control.repository import Repository
from service.errors import BadModel
from service.model.manifest import Graph, Manifest, read_manifest
from service.model.model import answer_example, choose_graph, load
from service.settings import Precision, Provider, Settings
from tests.conftest import COLOURS, png, write_colours, write_warmth
from tests.test_routes import serving

pytestmark = pytest.mark.anyio

PURPLE = png((120, 10, 100))
# Sees more blue than there is, as coarse numbers might: purple is cold, by its vector.
BLUER = COLOURS.replace("float scale = {0.1}", "float[3] gain = {0.8, 1, 1.2}, float scale = {0.1}")
BLUER = BLUER.replace("vector = ReduceMean", "mean = ReduceMean").replace(
    "logits =", "vector = Mul(mean, gain)\n    logits ="
)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`colours` with an int8 graph that sees otherwise, and a head on it."""
    folder = write_colours(tmp_path)
    head = write_warmth(tmp_path)
    (head / "example.png").write_bytes(png((11, 10, 10)))  # only just warm
    answer = answer_example(head, read_manifest(head), lambda _: load(folder, Settings()))
    (head / "example.json").write_text(json.dumps(answer))
    add_graph(folder, "bluer.onnx", BLUER, tolerance=50.0)
    return tmp_path


def add_graph(folder: Path, file: str, text: str, tolerance: float) -> None:
    """A second graph, in int8."""
    data = onnx.parser.parse_model(text).SerializeToString()
    (folder / file).write_bytes(data)
    manifest: dict[str, Any] = yaml.safe_load((folder / "manifest.yaml").read_text())
    digest = hashlib.sha256(data).hexdigest()
    manifest["graphs"].append({"file": file, "precision": "int8", "sha256": digest})
    manifest["example"]["tolerance"]["int8"] = tolerance
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))


def manifest_of(template: Path, *graphs: str) -> Manifest:
    """A manifest whose graphs are `<device>-<precision>`."""
    listed = []
    for name in graphs:
        device, precision = name.split("-")
        content = {"file": name, "device": device, "precision": precision, "sha256": "0" * 64}
        listed.append(Graph.model_validate(content))
    return read_manifest(template).model_copy(update={"graphs": tuple(listed)})


@pytest.mark.parametrize(
    ("provider", "wanted", "expected"),
    [
        (Provider.CPU, Precision.AUTO, "cpu-fp32"),
        (Provider.CPU, Precision.FP32, "cpu-fp32"),
        (Provider.CPU, Precision.INT8, "cpu-int8"),
        (Provider.CPU, Precision.FP16, "cpu-fp32"),
        (Provider.CUDA, Precision.AUTO, "cuda-fp16"),
        (Provider.CUDA, Precision.FP16, "cuda-fp16"),
        (Provider.CUDA, Precision.FP32, "cpu-fp32"),
        (Provider.TENSORRT, Precision.AUTO, "cuda-fp16"),
    ],
)
def test_the_first_graph_of_the_device_and_precision_is_taken(
    tmp_path: Path, provider: Provider, wanted: Precision, expected: str
) -> None:
    manifest = manifest_of(write_colours(tmp_path), "cpu-fp32", "cpu-int8", "cuda-fp16")
    assert choose_graph(manifest, provider, wanted).file == expected


def test_a_model_without_that_precision_serves_its_first_graph_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_colours(tmp_path)
    with caplog.at_level(logging.INFO):
        assert load(folder, Settings(precision=Precision.INT8)).graph.precision == "fp32"
    assert "colours has no graph in int8: model.onnx serves" in caplog.text


def test_a_graph_for_a_gpu_alone_does_not_run_on_a_cpu(tmp_path: Path) -> None:
    manifest = manifest_of(write_colours(tmp_path), "cuda-fp16")
    with pytest.raises(BadModel, match="graphs: none of them is for the cpu"):
        choose_graph(manifest, Provider.CPU, Precision.FP16)


async def test_models_say_in_which_precision_they_serve(models: Path) -> None:
    async with serving(models, precision="int8") as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert {card["id"]: card["precision"] for card in listed} == {
            "colours": "int8",
            "warmth": "fp32",
        }


async def test_a_head_serves_behind_an_int8_encoder(models: Path) -> None:
    """Its example was answered by fp32 vectors, and is checked with them; requests get int8's."""
    for precision, expected in (("auto", "warm"), ("int8", "cold")):
        async with serving(models, precision=precision) as client:
            url = "/v1/image/classify?model=warmth&top_k=1"
            response = await client.post(url, content=PURPLE)
            assert response.json()["results"][0]["labels"][0]["label"] == expected


async def test_a_wrong_head_is_refused_behind_an_int8_encoder_as_well(models: Path) -> None:
    expected = models / "warmth/1/example.json"
    expected.write_text(json.dumps({"classify": [0.5, 0.5]}))
    repository = Repository(Settings(models=models, precision=Precision.INT8))
    await repository.open()
    assert "classify differs by" in str(repository.find("warmth").reason)
    await repository.close()


def test_an_example_is_answered_by_the_first_graph_whatever_is_set(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_encoder(_: object) -> Any:
        return load(models / "colours/1", Settings())

    for name in ("colours", "warmth"):
        manifest = read_manifest(models / name / "1")
        before = answer_example(models / name / "1", manifest, load_encoder)
        with monkeypatch.context() as environment:
            environment.setenv("SENSORIUM_PRECISION", "int8")
            assert answer_example(models / name / "1", manifest, load_encoder) == before
