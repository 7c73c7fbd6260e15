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
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union

import yaml
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from typing_extensions import TypedDict  # pydantic requires it before Python 3.12

from service.errors import BadModel
from service.model.preprocessing import MODALITIES
from service.model.preprocessing.vector import EncoderReference, VectorPreprocessing
from service.model.specs import (
    FILE_NAME,
    MULTIMODAL,
    FileName,
    Frozen,
    Kind,
    Modality,
    Name,
    Positive,
    PreprocessingSpec,
    Sha256,
    TaskSpec,
    first_fault,
)
from service.model.tasks import TASKS
from service.regular import read_regular, sha256

MANIFEST = "manifest.yaml"
MANIFEST_BYTES = 2**20
MAX_DEPTH = 32  # of nested lists and mappings in a manifest
PACKAGE = (
    "`python -m training package FILE.onnx --modality MODALITY --name NAME` writes model folders"
)

Precision = Literal["fp32", "fp16", "int8"]

# Both follow the registries, so a type checker sees only what all tasks and modalities have.
if TYPE_CHECKING:
    Preprocessing: TypeAlias = PreprocessingSpec
    Tasks: TypeAlias = Mapping[str, TaskSpec]
else:
    specs = [*(modality.spec_type for modality in MODALITIES.values()), VectorPreprocessing]
    Preprocessing = Annotated[Union[tuple(specs)], Field(discriminator="modality")]  # noqa: UP007
    Tasks = TypedDict("Tasks", {t.name: t.spec_type for t in TASKS.values()}, total=False)
    Tasks.__pydantic_config__ = ConfigDict(extra="forbid")


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
    items_per_run: Positive | None = Field(None, exclude=True)  # ignored; older folders have it
    side_files: tuple[SideFile, ...] | None = None  # all that it reads; None: it reads no other

    @property
    def side_hashes(self) -> dict[str, str]:
        """The SHA-256 of each side file, by its name."""
        return {side.file: side.sha256 for side in self.side_files or ()}


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
    tasks: Tasks  # what the model can be asked for, and the outputs that answer it
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
        return self.modalities[0] if len(self.modalities) == 1 else MULTIMODAL

    def files(self) -> Iterator[tuple[str, str]]:
        """(field, file name) of everything that must lie beside the manifest."""
        for number, graph in enumerate(self.graphs):
            yield f"graphs.{number}.file", graph.file
            for side in graph.side_files or ():
                yield f"graphs.{number}.side_files", side.file
        for task, spec in self.tasks.items():
            for field, file in spec.files().items():
                yield f"tasks.{task}.{field}", file
        for field, file in self.preprocessing.files().items():
            yield f"preprocessing.{field}", file
        yield "example.file", self.example.file
        yield "example.expected", self.example.expected
        yield "card", self.card

    @field_validator("tasks")
    @classmethod
    def _some_task(cls, tasks: Tasks) -> Tasks:
        if not tasks:
            raise ValueError(f"name at least one task: {', '.join(TASKS)}")
        return tasks

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
        content = _read_yaml(read_regular(path, MANIFEST_BYTES).decode("utf-8-sig"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise BadModel(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        hint = _hint(error, content, path.parent)
        raise BadModel(f"{path}: {first_fault(error)}{hint}") from error


def _read_yaml(text: str) -> Any:
    """Read YAML with libyaml where it is installed: a manifest takes 0.4 ms instead of 4 ms.

    libyaml's recursion has no limit, so the depth is checked first.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    return yaml.load(text, loader)


def _hint(error: ValidationError, content: Any, folder: Path) -> str:
    """What to write instead, where that is known: a graph's hash, the tasks that there are."""
    first = error.errors()[0]
    match first["loc"]:
        case ("graphs", int(number), "sha256"):
            file = str(content["graphs"][number].get("file"))
            if re.fullmatch(FILE_NAME, file) and (folder / file).is_file():
                return f"; the SHA-256 of {file} is {sha256(folder / file)}"
        case ("tasks", str()) if first["type"] == "extra_forbidden":
            return f": there is no such task; there are {', '.join(TASKS)}"
    return ""


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest.yaml`, fields in the order of the model, those left at None omitted."""
    content = manifest.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
