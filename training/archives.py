"""Archives: their files one after the other, never written under the names in the archive."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from training.errors import DataUnavailable


def read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every regular file in a .zip, or in a .tar however compressed.

    Raises:
        DataUnavailable: it is not a whole archive, or a name or a link in it leads outside.
    """
    read = _read_zip if path.suffix == ".zip" else _read_tar
    try:
        yield from read(path)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataUnavailable(f"{path} cannot be unpacked: {error}") from error


def _read_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in tqdm(archive, desc=f"unpacking {path.name}", unit=" files", leave=False):
            _check_inside(path, member.name)
            _check_inside(path, member.linkname)
            if member.isreg() and (content := archive.extractfile(member)) is not None:
                yield member.name, content.read()


def _read_zip(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in tqdm(members, desc=f"unpacking {path.name}", unit=" files", leave=False):
            _check_inside(path, member.filename)
            if not member.is_dir():
                yield member.filename, archive.read(member)


def _check_inside(path: Path, name: str) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DataUnavailable(f"{path} leads outside its folder: {name}")
