"""Model folders: written atomically, after the serving code has loaded them."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from service.errors import BadModel
from service.model.manifest import Manifest, write_manifest
from service.model.model import FindEncoder, answer_example, load, no_encoder
from service.settings import Settings
from training.errors import CannotWrite, FolderExists

Content = bytes | str | Path  # of one file; a path is copied


def write_folder(
    models: Path,
    manifest: Manifest,
    files: Mapping[str, Content],
    *,
    replace: bool = False,
    find_encoder: FindEncoder = no_encoder,
) -> Path:
    """Write `models/<name>/<version>/` and return it.

    The serving path computes the example's expected answer. Then the whole folder is loaded as the
    service loads it, and moved to its place if that succeeds.

    Args:
        files: every file that the manifest names, except the example's expected answer.
        replace: replace an older folder of that version, which must not be released yet.
        find_encoder: finds the loaded encoders of a head.

    Raises:
        FolderExists: the version is there already, and `replace` is not set.
        BadModel: the service would refuse the folder.
    """
    target = models / manifest.name / str(manifest.version)
    check_free(target, replace=replace)
    models.mkdir(parents=True, exist_ok=True)
    # Hidden, so that the service does not look into it; beside the target, so that one rename
    # moves it. Name and version are repeated within, for the manifest is checked against them.
    prefix = f".{manifest.name}.{manifest.version}.partial-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=models) as staging:
        folder = Path(staging, manifest.name, str(manifest.version))
        folder.mkdir(parents=True)
        for name, content in files.items():
            _write(folder / name, content)
        write_manifest(manifest, folder)
        try:
            answer = answer_example(folder, manifest, find_encoder)
            (folder / manifest.example.expected).write_text(json.dumps(answer) + "\n")
            load(folder, Settings(), find_encoder)
        except BadModel as error:  # of a folder that is gone when it is read
            raise type(error)(str(error).replace(str(folder), str(target))) from error
        _move(folder, target, old=Path(staging, "old"))
    return target


def check_writable(flag: str, folder: Path) -> None:
    """Check before the work starts that a folder is writable.

    Raises:
        CannotWrite: it is not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writable-", dir=folder):
            pass
    except OSError as error:
        raise CannotWrite(
            f"{flag} {folder}: cannot be written to: {error.strerror}; choose another folder"
        ) from error


def name_example(source: Path) -> str:
    """The name of an example file in a model folder."""
    suffix = source.suffix.lower()
    known = re.fullmatch(r"\.[a-z0-9]+", suffix) and suffix != ".json"  # of the expected answer
    return f"example{suffix if known else ''}"


def choose_version(model: Path, wanted: int | None, *, replace: bool = False) -> int:
    """The version to write into a model's folder: the wanted one, else the next number.

    Raises:
        FolderExists: the wanted one is there already, and `replace` is not set.
        CannotWrite: a file has the model's name.
    """
    if model.exists() and not model.is_dir():
        raise CannotWrite(f"{model} is a file; remove it, or choose another name")
    versions = [int(path.name) for path in model.glob("*") if path.name.isdecimal()]
    version = wanted or max(versions, default=0) + 1
    check_free(model / str(version), replace=replace)
    return version


def check_free(target: Path, *, replace: bool = False) -> None:
    """Check before the work starts that the version is free.

    Raises:
        FolderExists: it exists, and `replace` is not set.
    """
    if target.exists() and not replace:
        raise FolderExists(
            f"{target} exists, and a version never changes; raise the version, or remove the folder"
        )


def _write(path: Path, content: Content) -> None:
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    elif isinstance(content, str):
        path.write_bytes(content.encode(errors="replace"))  # names of files may be no text
    else:
        path.write_bytes(content)


def _move(folder: Path, target: Path, old: Path) -> None:
    """Move the folder to its place; restore the old one if that fails."""
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
        folder.rename(target)
        return
    target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        old.rename(target)
        raise
