"""Downloads: verified files that resume after an interruption."""

import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from service.regular import sha256
from training.errors import DataUnavailable

TIMEOUT = 30.0  # seconds without a byte
BLOCK = 1 << 16  # bytes
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416


@dataclass(frozen=True, slots=True)
class Download:
    """One file on the web, and its SHA-256."""

    url: str
    sha256: str | None  # None: not published; the first download's hash is kept

    @property
    def name(self) -> str:
        return PurePosixPath(urlsplit(self.url).path).name


def download(wanted: Download, folder: Path) -> Path:
    """The file in `folder`, from the web if it is not there yet.

    What has arrived before a break stays beside it as <name>.partial; the next call asks for the
    rest. A file without a published hash must have the recorded one (`record_hash`), if there is.

    Raises:
        DataUnavailable: it cannot be fetched, or is not the file that is meant, and is removed.
        OSError: the folder cannot be written.
    """
    target = folder / wanted.name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        _fetch(wanted.url, partial)
        partial.replace(target)
    _check_hash(target, wanted)
    return target


def record_hash(path: Path) -> None:
    """Write the file's SHA-256 beside it, for later downloads to be compared with."""
    _record(path).write_text(f"{sha256(path)}  {path.name}\n", encoding="utf-8")


def _check_hash(path: Path, wanted: Download) -> None:
    record = _record(path)
    expected, advice = wanted.sha256, ""
    if expected is None and record.exists():
        expected = record.read_text(encoding="utf-8").split()[0]
        advice = f"; if it is to be trusted, remove {record}"
    if expected is not None and expected != (found := sha256(path)):
        path.unlink()  # so that the next attempt starts afresh
        raise DataUnavailable(
            f"{path.name} from {wanted.url} is not the file that is meant: its SHA-256 is {found},"
            f" not {expected}{advice}"
        )


def _record(path: Path) -> Path:
    """In the form that `sha256sum --check` reads."""
    return path.with_name(path.name + ".sha256")


def _fetch(url: str, partial: Path) -> None:
    """Add to `partial` what it lacks, or all of it where the server does not send parts."""
    start = partial.stat().st_size if partial.exists() else 0
    with _open(url, start, partial.parent) as answer:
        if answer.status != PARTIAL_CONTENT:
            start = 0
        length = answer.headers.get("Content-Length", "")
        missing = int(length) if length.isdecimal() else 0
        _check_space(url, missing, partial.parent)
        with (
            partial.open("ab" if start else "wb") as file,
            tqdm(
                total=start + missing if missing else None,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=partial.stem,
                leave=False,
            ) as progress,
        ):
            for block in _blocks(url, answer):
                file.write(block)
                progress.update(len(block))
            received = file.tell()
    if received < start + missing:
        raise DataUnavailable(
            f"{url} ended after {received:,} of {start + missing:,} bytes;"
            " the same command goes on from there"
        )


def _open(url: str, start: int, folder: Path) -> Any:
    """The server's answer, from byte `start` on if it can do that."""
    part = {"Range": f"bytes={start}-"} if start else {}
    try:
        request = urllib.request.Request(url, headers=part)
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if start and error.code == RANGE_NOT_SATISFIABLE:  # there is nothing after `start`
                return _open(url, 0, folder)
            reason = f"{error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    raise DataUnavailable(
        f"{url} cannot be downloaded ({reason}); set HTTPS_PROXY if this machine needs a proxy, or"
        f" put the file into {folder} by hand"
    )


def _check_space(url: str, missing: int, folder: Path) -> None:
    if missing > (free := shutil.disk_usage(folder).free):
        raise DataUnavailable(f"{url} has {missing:,} bytes, and {folder} has {free:,} left")


def _blocks(url: str, answer: Any) -> Iterator[bytes]:
    try:
        while block := answer.read(BLOCK):
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise DataUnavailable(
            f"{url} broke off ({error}); the same command goes on from there"
        ) from error
