"""A model folder says everything that serving it needs in its `manifest.yaml`.

models/<name>/<version>/
    manifest.yaml      this file's `Manifest`
    model.onnx         one graph or more
    labels.txt         or tokenizer.json: whatever the manifest names
    example.jpg        one input, and in example.json what the model must answer to it
    card.md            for people
"""

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import BadModel
from service.regular import read_regular, sha256

MANIFEST = "manifest.yaml"
MANIFEST_BYTES = 2**20
PACKAGE = (
    "`python -m training package FILE.onnx --modality MODALITY --name NAME` writes model folders"
)

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$", max_length=64)]
FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"  # never a path
FileName = Annotated[str, Field(pattern=FILE_NAME)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Triple = tuple[float, float, float]
Modality = Literal["image", "text", "audio"]
Kind = Literal["image", "text", "audio", "multimodal"]  # of what a request brings
Task = Literal["classify", "embed"]
Precision = Literal["fp32", "fp16", "int8"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Normalise(Frozen):
    """What the service does to pixels for a graph that does not do it: (p / 255 - mean) / std."""

    mean: Triple
    std: Triple
    dtype: Literal["float32", "float16"] = "float32"


class ImagePreprocessing(Frozen):
    """A picture becomes RGB pixels; uint8 in 0..255 unless `normalise` is given."""

    modality: Literal["image"]
    input: str  # the graph's input: uint8 or float, [N, ...]
    size: tuple[Positive, Positive]  # height, width of what the graph takes
    crop: Share = 1.0  # of the largest centred box of that shape
    fit: Literal["crop", "stretch"] = "crop"  # stretch: the whole picture, shape ignored
    resample: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bicubic"
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    normalise: Normalise | None = None


TokenInput = Literal["input_ids", "attention_mask", "token_type_ids"]


class TextPreprocessing(Frozen):
    """A text becomes token ids, padded to the longest of its batch."""

    modality: Literal["text"]
    tokenizer: FileName = "tokenizer.json"
    max_length: Positive  # tokens, special ones included
    pad_token: str = "[PAD]"
    inputs: tuple[TokenInput, ...] = ("input_ids", "attention_mask")


class LogMel(Frozen):
    """(ln(mel power + floor) - mean) / std, of Hann windows, on Slaney's mel scale."""

    window: Positive  # samples of one frame, also the FFT's length
    hop: Positive  # samples from one frame to the next
    bands: Positive
    low_hz: Annotated[float, Field(ge=0)] = 0.0
    high_hz: Annotated[float, Field(gt=0)]
    floor: Annotated[float, Field(gt=0)] = 1e-6
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0


class AudioPreprocessing(Frozen):
    """A recording becomes mono sound of one rate and length, and a spectrogram if one is named."""

    modality: Literal["audio"]
    input: str  # the graph's input: float32[N, ...]
    sample_rate: Positive  # Hz
    seconds: Annotated[float, Field(gt=0)]  # longer is cut, shorter is padded with silence
    keep: Literal["start", "centre"] = "start"  # which part of a longer recording
    log_mel: LogMel | None = None  # None: the graph takes the waveform

    @property
    def samples(self) -> int:
        return round(self.sample_rate * self.seconds)

    @model_validator(mode="after")
    def _frequencies_exist(self) -> "AudioPreprocessing":
        mel = self.log_mel
        if mel and not mel.low_hz < mel.high_hz <= self.sample_rate / 2:
            raise ValueError("log_mel wants low_hz < high_hz <= half the sample rate")
        return self


class EncoderReference(Frozen):
    """An encoder, by the weights that its vectors come from: others mean nothing to the head."""

    name: Name
    modality: Modality
    width: Positive
    sha256: Sha256  # of the weights: the encoder's `origin.sha256`


class VectorPreprocessing(Frozen):
    """A head: its input is made of encoders' vectors, not of a file.

    With several encoders, of one modality or of several, the vectors stand in their order, each
    followed by a 1; one that is missing is zeros, followed by a 0.
    """

    modality: Literal["vector"]
    input: str  # the graph's input: float32[N, width]
    encoders: Annotated[tuple[EncoderReference, ...], Field(min_length=1)]

    @property
    def width(self) -> int:
        flags = len(self.encoders) if len(self.encoders) > 1 else 0
        return sum(encoder.width for encoder in self.encoders) + flags

    @model_validator(mode="after")
    def _each_once(self) -> "VectorPreprocessing":
        if len({encoder.name for encoder in self.encoders}) < len(self.encoders):
            raise ValueError("encoders: one stands there twice")
        return self


Preprocessing = Annotated[
    ImagePreprocessing | TextPreprocessing | AudioPreprocessing | VectorPreprocessing,
    Field(discriminator="modality"),
]


class SideFile(Frozen):
    """A file beside a graph that holds weights of it; ONNX calls them external data."""

    file: FileName
    sha256: Sha256


class Graph(Frozen):
    """One ONNX file; the service takes the first that fits the device it runs on."""

    file: FileName
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "fp32"
    sha256: Sha256
    items_per_run: Positive | None = None  # on one thread of a CPU; of more, several
    side_files: tuple[SideFile, ...] | None = None  # all that it reads; None: it reads no other

    @property
    def side_hashes(self) -> dict[str, str]:
        """The SHA-256 of each side file, by its name."""
        return {side.file: side.sha256 for side in self.side_files or ()}


class Classify(Frozen):
    """`output` is float[N, classes]: one score a label, a probability after `activation`."""

    output: str
    activation: Literal["softmax", "log_softmax", "sigmoid", "none"] = "softmax"
    labels: FileName = "labels.txt"  # one a line, in the order of the output


class Embed(Frozen):
    """`output` is float[N, width]: one vector an input."""

    output: str
    width: Positive


class Tasks(Frozen):
    """What the model can be asked for, and which of the graph's outputs answers it."""

    classify: Classify | None = None
    embed: Embed | None = None

    def outputs(self) -> dict[Task, str]:
        """Task -> the name of the graph's output."""
        declared: dict[Task, Classify | Embed | None] = {
            "classify": self.classify,
            "embed": self.embed,
        }
        return {task: meaning.output for task, meaning in declared.items() if meaning}

    @model_validator(mode="after")
    def _some_task(self) -> "Tasks":
        if not self.outputs():
            raise ValueError("name at least one task: classify, embed")
        return self


class Batching(Frozen):
    max_batch: Positive = 16  # items
    max_cost: Positive | None = None  # items x the longest: tokens, for a text


class Example(Frozen):
    """One input whose answer is known; a model that answers otherwise never becomes ready."""

    file: FileName
    expected: FileName = "example.json"  # {task: [float, ...]}: scores or vector
    tolerance: dict[Precision, Annotated[float, Field(gt=0)]]  # greatest absolute difference


class Origin(Frozen):
    """Where the weights came from, and by which right."""

    source: str
    sha256: Sha256 | None = None  # of the file of weights; None: trained here
    licence: str
    data: str


class Figure(Frozen):
    metric: str
    value: float
    data: str


class Manifest(Frozen):
    """All that a model folder declares."""

    format: Literal[1]
    name: Name
    version: Positive
    description: str
    preprocessing: Preprocessing
    graphs: Annotated[tuple[Graph, ...], Field(min_length=1)]
    tasks: Tasks
    batching: Batching = Batching()
    example: Example
    origin: Origin
    evaluation: tuple[Figure, ...] = ()
    card: FileName = "card.md"

    @cached_property
    def encoders(self) -> tuple[EncoderReference, ...]:
        """Whose vectors a head takes; none for any other model."""
        spec = self.preprocessing
        return spec.encoders if isinstance(spec, VectorPreprocessing) else ()

    @cached_property
    def modalities(self) -> tuple[Modality, ...]:
        """What a request for this model may bring: a head takes what its encoders take."""
        if isinstance(self.preprocessing, VectorPreprocessing):
            return tuple(dict.fromkeys(encoder.modality for encoder in self.encoders))
        return (self.preprocessing.modality,)

    @cached_property
    def kind(self) -> Kind:
        return self.modalities[0] if len(self.modalities) == 1 else "multimodal"

    def files(self) -> Iterator[tuple[str, str]]:
        """(field, file name) of everything that must lie beside the manifest."""
        for number, graph in enumerate(self.graphs):
            yield f"graphs.{number}.file", graph.file
            for side in graph.side_files or ():
                yield f"graphs.{number}.side_files", side.file
        if self.tasks.classify:
            yield "tasks.classify.labels", self.tasks.classify.labels
        if isinstance(self.preprocessing, TextPreprocessing):
            yield "preprocessing.tokenizer", self.preprocessing.tokenizer
        yield "example.file", self.example.file
        yield "example.expected", self.example.expected
        yield "card", self.card

    @model_validator(mode="after")
    def _tolerances_cover_the_graphs(self) -> "Manifest":
        for graph in self.graphs:
            if graph.precision not in self.example.tolerance:
                raise ValueError(f"example.tolerance says nothing of {graph.precision}")
        return self


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a model folder, whose files are all present.

    Raises:
        BadModel: with a sentence that names the file and the field.
    """
    path = folder / MANIFEST
    manifest = _parse(path)
    if folder.name != str(manifest.version):
        raise BadModel(f"{path}: version: {manifest.version} stands in a folder {folder.name}")
    if folder.parent.name != manifest.name:
        raise BadModel(f"{path}: name: {manifest.name} stands in a folder {folder.parent.name}")
    for field, file in manifest.files():
        if not (folder / file).is_file():
            raise BadModel(f"{path}: {field}: there is no file {file}")
    return manifest


def _parse(path: Path) -> Manifest:
    if not os.path.lexists(path):
        raise BadModel(f"{path}: there is no such file; {PACKAGE}")
    try:
        content = yaml.safe_load(read_regular(path, MANIFEST_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadModel(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        hint = _hint(error, content, path.parent)
        raise BadModel(f"{path}: {first_fault(error)}{hint}") from error


def _hint(error: ValidationError, content: Any, folder: Path) -> str:
    """What to write instead, where that is known: a graph's hash, the tasks that there are."""
    first = error.errors()[0]
    match first["loc"]:
        case ("graphs", int(number), "sha256"):
            file = str(content["graphs"][number].get("file"))
            if re.fullmatch(FILE_NAME, file) and (folder / file).is_file():
                return f"; the SHA-256 of {file} is {sha256(folder / file)}"
        case ("tasks", str()) if first["type"] == "extra_forbidden":
            return f": there is no such task; there are {', '.join(get_args(Task))}"
    return ""


def first_fault(error: ValidationError) -> str:
    """The first field of a file that is wrong, and why."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the whole file"
    return f"{field}: {first['msg']}"


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.yaml`, fields in the order of the model, those left at None omitted."""
    content = manifest.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
