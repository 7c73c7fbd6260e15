"""Specs: the parts of a manifest that a task or a modality declares, and their field types."""

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$", max_length=64)]
FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"  # never a path
FileName = Annotated[str, Field(pattern=FILE_NAME)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]

Modality: TypeAlias = str  # a key of `preprocessing.MODALITIES`
Kind: TypeAlias = str  # what a request brings: a modality, or MULTIMODAL
MULTIMODAL: Kind = "multimodal"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskSpec(Frozen):
    """What a manifest says of one task."""

    output: str  # of the graph; float[N, width]

    def files(self) -> Mapping[str, str]:
        """Field -> name of each file that the task needs beside the manifest."""
        return {}


class PreprocessingSpec(Frozen):
    """What a manifest says of the way from a file to the graph's inputs."""

    modality: str

    def files(self) -> Mapping[str, str]:
        """Field -> name of each file that the preprocessing needs beside the manifest."""
        return {}


def first_fault(error: ValidationError) -> str:
    """The first field of a file that is wrong, and why."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the whole file"
    return f"{field}: {first['msg']}"
