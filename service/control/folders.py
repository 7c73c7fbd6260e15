"""Folders: finds the model folders and their faults, without loading anything."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR

from service.model.manifest import MANIFEST, PACKAGE

NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
VERSION = re.compile(r"[1-9][0-9]{0,8}")
NO_VERSION = "-"  # the version of an entry for a whole faulty model folder

Key = tuple[str, str]  # name and version
Fingerprint = frozenset[tuple[str, int, int]]  # of a folder: name, size and time of each file
GONE: Fingerprint = frozenset()


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder `models/<name>/<version>` at the time of a scan."""

    name: str
    version: str
    seen: Fingerprint
    fault: str | None = None  # why it cannot be loaded
    whole: bool = True  # False without a manifest: its files may still be arriving
    hides: bool = False  # whether the model's other versions cannot be listed

    @property
    def key(self) -> Key:
        return self.name, self.version


def faulty_folder(name: str, version: str, fault: str, *, hides: bool = False) -> Folder:
    """A folder that cannot be loaded. Its fault is its fingerprint, so a new fault is a change."""
    return Folder(
        _printable(name), _printable(version), frozenset({(fault, 0, 0)}), fault, hides=hides
    )


def model_folders(models: Path) -> list[Path]:
    """The entries of the models folder, except hidden ones, which are still being written.

    Raises:
        OSError: the models folder cannot be listed.
    """
    return sorted(Path(entry.path) for entry in os.scandir(models) if entry.name[0] not in "._")


def scan_model(path: Path) -> list[Folder]:
    """All versions in a model folder, faulty ones included. A bare ONNX file counts as faulty."""
    try:
        if not _is_folder(path):
            bare = path.suffix == ".onnx"
            return [faulty_folder(path.name, NO_VERSION, f"is a file; {PACKAGE}")] if bare else []
        if not NAME.fullmatch(path.name) or len(path.name) > 64:
            fault = "a model's name has up to 64 lower-case letters and digits, with . _ - inside"
            return [faulty_folder(path.name, NO_VERSION, fault)]
        found = [folder for version in model_folders(path) for folder in _scan_version(version)]
    except OSError as error:
        return list(_unreadable(path, path.name, NO_VERSION, error))
    return found or [faulty_folder(path.name, NO_VERSION, f"holds no version folder; {PACKAGE}")]


def _scan_version(path: Path) -> Iterator[Folder]:
    name, version = path.parent.name, path.name
    try:
        if not _is_folder(path):
            return
        if VERSION.fullmatch(version):
            whole = os.path.isfile(path / MANIFEST)
            yield Folder(name, version, _fingerprint(path), whole=whole)
        else:
            yield faulty_folder(
                name, version, "a version is a positive number without leading zeros"
            )
    except OSError as error:
        yield from _unreadable(path, name, version, error)


def _unreadable(path: Path, name: str, version: str, error: OSError) -> Iterator[Folder]:
    if os.path.lexists(path):
        link = "a link to a missing folder"
        fault = (
            link if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        )
        yield faulty_folder(name, version, fault, hides=version == NO_VERSION)


def _is_folder(path: Path) -> bool:
    return S_ISDIR(os.stat(path).st_mode)


def _fingerprint(folder: Path) -> Fingerprint:
    with os.scandir(folder) as files:
        return frozenset(mark for file in files for mark in _mark(file))


def _mark(file: "os.DirEntry[str]") -> Iterator[tuple[str, int, int]]:
    """The mark of one file: of the link itself if it is dangling, none if it was just deleted."""
    for follow in (True, False):
        try:
            stat = file.stat(follow_symlinks=follow)
        except OSError:
            continue
        yield file.name, stat.st_size, stat.st_mtime_ns
        return


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)[1:-1]
