"""Policies: what an operator wants of each model, in one file that every worker obeys."""

import os
from bisect import bisect
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Annotated
from zlib import crc32

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from service.errors import OperatorError
from service.manifest import Frozen, Share, first_fault

LATEST = "latest"  # the highest version that serves; no alias can have that name

Number = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Alias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
VersionName = Annotated[str, Field(pattern=r"^(\d{1,9}|[a-z][a-z0-9_-]{0,31})$")]  # one of the two
Weight = Annotated[int, Field(gt=0, le=1_000_000)]


class Shadow(Frozen):
    """A version that gets a copy of a share of the items; its answers are compared, never given."""

    version: VersionName
    share: Share


class Routing(Frozen):
    """Which version of a model a request gets: the one it names, else one by its weight."""

    aliases: dict[Alias, Number] = Field({}, max_length=32)
    weights: dict[VersionName, Weight] = Field({}, max_length=32)  # empty: the latest gets all
    shadow: Shadow | None = None

    def number(self, version: str) -> str:
        """The number that an alias stands for; any other name is itself."""
        return self.aliases.get(version, version)

    @model_validator(mode="after")
    def _latest_is_no_alias(self) -> "Routing":
        if LATEST in self.aliases or (self.shadow and self.shadow.version == LATEST):
            raise ValueError(f"{LATEST} is the highest version that serves: no alias, no shadow")
        return self


class Policy(Frozen):
    """What is wanted of one model."""

    versions: frozenset[str] | None = None  # None: all that lie in its folder
    loads: int = 0  # calls so far that asked for a load: with each, workers look at the folder
    routing: Routing = Routing()

    def wants(self, version: str) -> bool:
        return self.versions is None or version in self.versions


Policies = Mapping[str, Policy]  # by the model's name; for one that is missing, a plain `Policy()`
FILE = TypeAdapter(dict[str, Policy])


def draw(weights: Mapping[str, int], key: str) -> str:
    """One of the names, each as often as it weighs; a key always draws the same."""
    ends = list(accumulate(weights.values()))
    place = bisect(ends, crc32(key.encode()) % ends[-1])
    return list(weights)[place]


def open_state(folder: Path) -> Path:
    """The file of policies in the folder that workers share, which is made where it is missing.

    Raises:
        OperatorError: the folder cannot be used, or what it keeps cannot be read.
    """
    file = folder / "models.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        read_policies(file)
    except OSError as error:
        raise OperatorError(f"SENSORIUM_STATE: {folder}: {error}") from error
    except ValidationError as error:
        raise OperatorError(f"SENSORIUM_STATE: {file}: {first_fault(error)}") from error
    return file


def read_policies(path: Path) -> dict[str, Policy]:
    """What the file holds; nothing where there is none yet."""
    return FILE.validate_json(path.read_bytes()) if path.exists() else {}


def write_policies(path: Path, policies: Policies) -> None:
    """Replace the file: who reads it meanwhile finds the old one or the new one."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_bytes(FILE.dump_json(dict(policies), indent=2))
    fresh.replace(path)
