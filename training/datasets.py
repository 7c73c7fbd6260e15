"""Public data sets, downloaded once and laid out as training reads them."""

import http.client
import re
import tarfile
import tempfile
import urllib.request
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from service.manifest import sha256
from training.errors import DataUnavailable
from training.recordings import DIGITS

DIGITS_URL = (
    "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
)
ARCHIVED = re.compile(r"recordings/(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<take>\d+)\.wav$")
TIMEOUT = 30.0  # seconds without a byte


def fetch_digits(cache: Path, url: str = DIGITS_URL) -> Path:
    """The Free Spoken Digit Dataset, laid out for `find_recordings`; downloaded if need be.

    No hash of the archive is published, so the first download's is written down beside it, and
    every later one must be the same.

    Raises:
        DataUnavailable: it cannot be downloaded, or is not what it was, or not a safe archive.
    """
    folder = cache / "spoken-digits"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / "spoken-digits.tar.gz"
    if not archive.exists():
        _download(url, archive)
    try:
        _check_hash(archive)
        _extract(archive, folder)
    except DataUnavailable:
        archive.unlink()  # so that the next attempt downloads it anew
        raise
    _record_hash(archive)
    return folder


def _download(url: str, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, partial.open("wb") as file:
            expected = int(answer.headers.get("Content-Length") or 0)
            with tqdm(
                total=expected or None, unit="B", unit_scale=True, desc=target.name, leave=False
            ) as progress:
                while block := answer.read(1 << 16):
                    file.write(block)
                    progress.update(len(block))
                received = file.tell()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataUnavailable(
            f"{url} cannot be downloaded ({error}); fetch the data another way and pass"
            " --data DIR with DIR/<class>/<speaker>_<take>.wav"
        ) from error
    if received < expected:
        raise DataUnavailable(f"{url} ended after {received:,} of {expected:,} bytes; try again")
    partial.rename(target)


def _check_hash(archive: Path) -> None:
    """Be loud about an archive that is not the first that was downloaded and unpacked."""
    record = _hash_record(archive)
    if not record.exists():
        return
    recorded, found = record.read_text(encoding="utf-8").split()[0], sha256(archive)
    if found != recorded:
        raise DataUnavailable(
            f"{archive.name} has the SHA-256 {found}, the first download had {recorded};"
            f" if the new one is to be trusted, remove {record}"
        )


def _record_hash(archive: Path) -> None:
    _hash_record(archive).write_text(f"{sha256(archive)}  {archive.name}\n", encoding="utf-8")


def _hash_record(archive: Path) -> Path:
    """In the form that `sha256sum --check` reads."""
    return archive.with_name(archive.name + ".sha256")


def _extract(archive: Path, folder: Path) -> None:
    """recordings/<digit>_<speaker>_<take>.wav -> folder/<word>/<speaker>_<take>.wav, or nothing."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as staging:
        whole = Path(staging, folder.name)
        try:
            with tarfile.open(archive) as tar:
                for member in tqdm(tar, desc="unpacking", unit=" files", leave=False):
                    _extract_take(tar, member, whole)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataUnavailable(f"{archive} cannot be unpacked: {error}") from error
        if not whole.is_dir():
            raise DataUnavailable(f"{archive} holds no recordings of digits")
        whole.rename(folder)


def _extract_take(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise DataUnavailable(f"the archive wants to write outside its folder: {member.name}")
    match = ARCHIVED.search(member.name)
    content = tar.extractfile(member) if match and member.isreg() else None
    if match is None or content is None:
        return
    word = folder / DIGITS[int(match["digit"])]
    word.mkdir(parents=True, exist_ok=True)
    name = f"{match['speaker']}_{int(match['take']):02}.wav"
    (word / name).write_bytes(content.read())
