"""Policies: the wanted versions and the routing of each model, in a file that workers share."""

import os
from bisect import bisect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from socket import AF_UNIX, socket
from tempfile import NamedTemporaryFile
from types import MappingProxyType
from typing import Annotated, TypeVar
from zlib import crc32

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from service.errors import OperatorError, StateUnusable
from service.model.specs import Frozen, Name, Share, first_fault
from service.settings import Use

LATEST = "latest"  # the highest ready version; a reserved alias

Number = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Alias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
# A number or an alias
VersionName = Annotated[str, Field(pattern=r"^([0-9]{1,9}|[a-z][a-z0-9_-]{0,31})$")]
Weight = Annotated[int, Field(gt=0, le=1_000_000)]


class Shadow(Frozen):
    """A version that gets copies of a share of the items. Its answers are only compared."""

    version: VersionName
    share: Share


class Routing(Frozen):
    """How a model's requests are routed: to the version they name, else by weights."""

    aliases: dict[Alias, Number] = Field({}, max_length=32)
    weights: dict[VersionName, Weight] = Field({}, max_length=32)  # empty: the latest gets all
    shadow: Shadow | None = None

    def number(self, version: str) -> str:
        """The number of an alias; any other name is returned unchanged."""
        return self.aliases.get(version, version)

    @model_validator(mode="after")
    def _latest_is_no_alias(self) -> "Routing":
        if LATEST in self.aliases or (self.shadow and self.shadow.version == LATEST):
            raise ValueError(f"{LATEST} is reserved for the highest ready version")
        return self


class Policy(Frozen):
    """The wanted versions and the routing of one model."""

    versions: frozenset[str] | None = None  # None: all in its folder
    loads: int = 0  # number of load requests so far; after each, workers scan the folder
    routing: Routing = Routing()

    def wants(self, version: str) -> bool:
        return self.versions is None or version in self.versions


class Defaults(Frozen):
    """The default models, by modality and task."""

    chosen: dict[Use, Name] = Field({}, max_length=32)  # set by an operator
    first: dict[Use, Name] = Field({}, max_length=32)  # the model that was once the only choice


Policies = Mapping[str, Policy]  # by the model's name; a missing one has a plain `Policy()`
POLICIES = TypeAdapter(dict[str, Policy])
DEFAULTS = TypeAdapter(Defaults)
NO_DEFAULTS = Defaults()
T = TypeVar("T")


def draw(weights: Mapping[str, int], key: str) -> str:
    """One of the names, with a probability in proportion to its weight, and fixed by the key."""
    ends = list(accumulate(weights.values()))
    place = bisect(ends, crc32(key.encode()) % ends[-1])
    return list(weights)[place]


def open_state(folder: Path) -> None:
    """Create the folder that workers share if it is missing, and check that it can be read.

    Raises:
        OperatorError: the folder cannot be used, or its files cannot be read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        read_policies(folder)
        read_defaults(folder)
    except OSError as error:
        raise OperatorError(f"SENSORIUM_STATE: {folder}: {error.strerror}") from error
    except StateUnusable as error:
        raise OperatorError(f"SENSORIUM_STATE: {folder}: {error}") from error


def check_state(folder: Path) -> None:
    """Raises:
    OperatorError: workers cannot create files or sockets in the folder.
    """
    try:
        with NamedTemporaryFile(dir=folder, prefix="test.") as file:
            file.write(b"{}")
        name = f"{os.getpid()}.test"
        with short_path(folder) as short, socket(AF_UNIX) as test:
            test.bind(str(short / name))
        (folder / name).unlink()
    except OSError as error:
        reason = error.strerror or error
        raise OperatorError(
            f"SENSORIUM_STATE: {folder}: {reason}: cannot create files or sockets there"
        ) from error


@contextmanager
def short_path(folder: Path) -> Iterator[Path]:
    """The folder under a name that fits into a socket address of 107 bytes."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = Path(f"/proc/self/fd/{number}")
        yield short if short.exists() else folder
    finally:
        os.close(number)


def read_policies(folder: Path, missing: Policies = MappingProxyType({})) -> dict[str, Policy]:
    """The policies in the state folder.

    Args:
        missing: the policies if there is no file.

    Raises:
        StateUnusable: the file cannot be read.
    """
    return _read(folder / "models.json", POLICIES, dict(missing))


def write_policies(folder: Path, policies: Policies) -> None:
    """Raises:
    StateUnusable: the file cannot be written.
    """
    _replace_atomically(folder / "models.json", POLICIES.dump_json(dict(policies), indent=2))


def read_defaults(folder: Path, missing: Defaults = NO_DEFAULTS) -> Defaults:
    """The default models in the state folder.

    Raises:
        StateUnusable: the file cannot be read.
    """
    return _read(folder / "defaults.json", DEFAULTS, missing)


def write_defaults(folder: Path, defaults: Defaults) -> None:
    """Raises:
    StateUnusable: the file cannot be written.
    """
    _replace_atomically(folder / "defaults.json", DEFAULTS.dump_json(defaults, indent=2))


def _read(path: Path, form: TypeAdapter[T], missing: T) -> T:
    try:
        return form.validate_json(path.read_bytes())
    except FileNotFoundError:
        return missing
    except OSError as error:
        raise StateUnusable(f"{path.name} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise StateUnusable(f"{path.name} is damaged: {first_fault(error)}") from error


def _replace_atomically(path: Path, content: bytes) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise StateUnusable(f"{path.name} cannot be written: {error.strerror}") from error
