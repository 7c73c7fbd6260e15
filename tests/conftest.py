"""Small true models, made in milliseconds, and ways to reach the service."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import soundfile
import yaml
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from service.model.manifest import Manifest
from service.model.model import Model, answer_example, load
from service.model.preprocessing.image import ImagePreprocessor
from service.model.preprocessing.vector import EncoderReference
from service.runtime.session import Session
from service.settings import Settings

SHARED_DATA = Path(__file__).parents[2] / "shared/data"

# Three graphs whose answers anyone can foresee.
COLOURS = """
<ir_version: 9, opset_import: ["" : 18]>
colours (uint8[N,8,8,3] pixels) => (float[N,3] logits, float[N,3] vector)
<int64[2] sides = {1, 2}, float scale = {0.1}> {
    floats = Cast<to = 1>(pixels)
    vector = ReduceMean<keepdims = 0>(floats, sides)
    logits = Mul(vector, scale)
}
"""
WORDS = """
<ir_version: 9, opset_import: ["" : 18]>
words (int64[N,L] input_ids, int64[N,L] attention_mask) => (float[N,8] vector)
<int64[1] one = {1}, int64[1] two = {2}, int64 depth = {8}, float[2] off_on = {0, 1}> {
    embedded = OneHot(input_ids, depth, off_on)
    mask = Cast<to = 1>(attention_mask)
    wide = Unsqueeze(mask, two)
    counted = Mul(embedded, wide)
    total = ReduceSum<keepdims = 0>(counted, one)
    length = ReduceSum<keepdims = 1>(mask, one)
    vector = Div(total, length)
}
"""
LOUDNESS = """
<ir_version: 9, opset_import: ["" : 18]>
loudness (float[N,1000] wave) => (float[N,2] logits)
<int64[1] time = {1}, float quiet = {0.1}, float sharp = {50}, float minus = {-1}> {
    positive = Abs(wave)
    level = ReduceMean<keepdims = 1>(positive, time)
    above = Sub(level, quiet)
    loud = Mul(above, sharp)
    silent = Mul(loud, minus)
    logits = Concat<axis = 1>(silent, loud)
}
"""
WARMTH = """
<ir_version: 9, opset_import: ["" : 18]>
warmth (float[N,3] vector) => (float[N,2] logits)
<float[3,2] weights = {1, 0, 0, 0, 0, 1}> {
    logits = MatMul(vector, weights)
}
"""
FAINT = COLOURS.replace("vector = R", "mean = R").replace(
    "logits = Mul(vector, scale)", "vector = Mul(mean, scale) logits = Identity(mean)"
)
ECHO = """
<ir_version: 9, opset_import: ["" : 18]>
echo (float[N,WIDTH] vector) => (float[N,WIDTH] logits)
<float share = {0.00390625}> {
    logits = Mul(vector, share)
}
"""
VOCABULARY = ["[PAD]", "[UNK]", "red", "green", "blue", "cat", "dog", "sea"]
ORIGIN = {
    "source": "made by the tests",
    "sha256": "0" * 64,
    "licence": "Apache-2.0",
    "data": "none",
}


def png(colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def wav(wave: Any, rate: int = 1000, **options: str) -> bytes:
    """A recording; `options` are soundfile's format and subtype."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, **{"format": "WAV", **options})
    return file.getvalue()


def tone(level: float, seconds: float = 1.0, rate: int = 1000) -> bytes:
    time = np.arange(round(seconds * rate)) / rate
    return wav(level * np.sin(2 * np.pi * 50 * time), rate)


def write_model(
    models: Path,
    graph: str | bytes,
    change: Callable[[dict[str, Any]], None] | None = None,
    **content: Any,
) -> Path:
    """A model folder of a small graph; `change` edits its manifest before it is written."""
    manifest: dict[str, Any] = {
        "format": 1,
        "version": 1,
        "description": "A small model of the tests.",
        "origin": ORIGIN,
        **content,
    }
    files = manifest.pop("files")
    encoders: dict[str, Model] = manifest.pop("encoders", {})

    def find_encoder(wanted: EncoderReference) -> Model:
        return encoders[wanted.name]

    folder = models / str(manifest["name"]) / str(manifest["version"])
    folder.mkdir(parents=True)
    data = graph if isinstance(graph, bytes) else _serialise(graph)
    (folder / "model.onnx").write_bytes(data)
    manifest["graphs"] = [{"file": "model.onnx", "sha256": hashlib.sha256(data).hexdigest()}]
    for name, bytes_ in {"card.md": b"# A small model\n", **files}.items():
        (folder / name).write_bytes(bytes_)
    answer = answer_example(folder, Manifest.model_validate(manifest), find_encoder)
    (folder / "example.json").write_text(json.dumps(answer))
    if change:
        change(manifest)
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def write_colours(models: Path, name: str = "colours", **options: Any) -> Path:
    """Says of a picture whether it is red, green or blue; its vector is the mean colour."""
    return write_model(
        models,
        options.pop("graph", COLOURS),
        name=name,
        preprocessing={"modality": "image", "input": "pixels", "size": [8, 8]},
        tasks={
            "classify": {"output": "logits"},
            "embed": {"output": "vector", "width": 3},
        },
        batching={"max_batch": 8},
        example={"file": "example.png", "tolerance": {"fp32": 1e-4}},
        files={"labels.txt": b"red\ngreen\nblue\n", "example.png": png((200, 30, 40))},
        **options,
    )


def write_words(models: Path, name: str = "words", **options: Any) -> Path:
    """Counts words: the vector holds the share of each word of the vocabulary."""
    return write_model(
        models,
        WORDS,
        name=name,
        preprocessing={"modality": "text", "max_length": 16},
        tasks={"embed": {"output": "vector", "width": 8}},
        batching={"max_batch": 8, "max_cost": 64},
        example={"file": "example.txt", "tolerance": {"fp32": 1e-5}},
        files={
            "tokenizer.json": options.pop("tokenizer", None) or small_tokenizer(),
            "example.txt": b"red cat sea",
        },
        **options,
    )


def write_loudness(models: Path, name: str = "loudness", **options: Any) -> Path:
    """Says of a second of sound whether it is silent or loud."""
    return write_model(
        models,
        LOUDNESS,
        name=name,
        preprocessing={"modality": "audio", "input": "wave", "sample_rate": 1000, "seconds": 1},
        tasks={"classify": {"output": "logits"}},
        batching={"max_batch": 8},
        example={"file": "example.wav", "tolerance": {"fp32": 1e-4}},
        files={"labels.txt": b"silent\nloud\n", "example.wav": tone(0.5)},
        **options,
    )


def write_warmth(models: Path, name: str = "warmth", **options: Any) -> Path:
    """A head on `colours`: is there more red than blue?"""
    return write_model(
        models,
        WARMTH,
        name=name,
        encoders={"colours": load(models / "colours/1", Settings())},
        preprocessing={
            "modality": "vector",
            "input": "vector",
            "encoders": [reference("colours", "image", 3)],
        },
        tasks={"classify": {"output": "logits"}},
        example={"file": "example.png", "tolerance": {"fp32": 1e-4}},
        files={"labels.txt": b"warm\ncold\n", "example.png": png((200, 30, 40))},
        **options,
    )


def write_mood(models: Path, name: str = "mood", **options: Any) -> Path:
    """A head on `colours` and `words`, whose answer shows its own input."""
    encoders = [reference("colours", "image", 3), reference("words", "text", 8)]
    return write_echo(models, name, encoders, **options)


def write_twice(models: Path, name: str = "twice", **options: Any) -> Path:
    """A head on two encoders of pictures, `colours` and `faint`; its answer is its own input."""
    write_colours(models, "faint", graph=FAINT)
    encoders = [reference("colours", "image", 3), reference("faint", "image", 3)]
    return write_echo(models, name, encoders, **options)


def write_echo(models: Path, name: str, encoders: list[dict[str, Any]], **options: Any) -> Path:
    """A head that answers its input, the encoders' vectors with their flags, as shares of 256."""
    width = sum(encoder["width"] + 1 for encoder in encoders)
    return write_model(
        models,
        ECHO.replace("WIDTH", str(width)),
        name=name,
        encoders={e["name"]: load(models / e["name"] / "1", Settings()) for e in encoders},
        preprocessing={"modality": "vector", "input": "vector", "encoders": encoders},
        tasks={"classify": {"output": "logits", "activation": "none"}},
        example={"file": "example.png", "tolerance": {"fp32": 1e-4}},
        files={
            "labels.txt": "\n".join(f"input {n}" for n in range(width)).encode(),
            "example.png": png((200, 30, 40)),
        },
        **options,
    )


def reference(name: str, modality: str, width: int) -> dict[str, Any]:
    return {"name": name, "modality": modality, "width": width, "sha256": ORIGIN["sha256"]}


@pytest.fixture
def small_models(tmp_path: Path) -> Path:
    return write_small_models(tmp_path / "models")


def write_small_models(models: Path) -> Path:
    """A folder with one small model of each modality."""
    for write in (write_colours, write_words, write_loudness):
        write(models)
    return models


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a picture was decoded, and a graph run."""
    counter: Counter[str] = Counter()

    def count(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def counting(*args: Any, **options: Any) -> Any:
            counter[name] += 1
            return method(*args, **options)

        monkeypatch.setattr(owner, name, counting)

    count(ImagePreprocessor, "decode")
    count(Session, "run")
    return counter


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs, sentences and recordings, where there are any."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real data is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def _serialise(text: str) -> bytes:
    graph = onnx.parser.parse_model(text)
    onnx.checker.check_model(graph)
    data: bytes = graph.SerializeToString()
    return data


def small_tokenizer() -> bytes:
    words = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str().encode()
