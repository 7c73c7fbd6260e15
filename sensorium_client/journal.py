"""The journal: one JSON line for each file that the service has answered, so that a run can go on.

A line is written at once and whole, or it is cut off by the next start and its file is asked again.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from sensorium_client.answers import Classification, Embedding
from sensorium_client.client import Task
from sensorium_client.errors import FileRefused, SensoriumError

if sys.platform != "win32":
    import fcntl

BEGINNING = b'{"file": '  # of each line


class BadJournal(SensoriumError):
    """The file holds something else, or another run is writing it."""


class Journal:
    """The files that are answered, and where that is written."""

    def __init__(self, file: BinaryIO, task: Task, answered: dict[str, str]) -> None:
        self._file = file
        self._task = task
        self.answered = answered  # name -> "ok" or "error"

    def write(self, name: str, answer: Classification | Embedding | FileRefused) -> None:
        """Append one line, which a kill of this process does not undo."""
        status, content = _describe(answer)
        line = {"file": name, "task": self._task, "status": status, **content}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        self.answered[name] = status


@contextmanager
def open_journal(path: Path, task: Task) -> Iterator[Journal]:
    """The journal of that path, begun or continued; a half-written last line is cut off.

    Raises:
        BadJournal: it is not one of this task, or another run has it open.
        OSError: it cannot be written.
    """
    with path.open("a+b") as file:
        _claim(file)
        yield Journal(file, task, _read(file, task))


def _claim(file: BinaryIO) -> None:
    """Two runs that write one file would answer each file twice; Windows is trusted not to."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadJournal(f"{file.name}: another run is writing it") from None


def _describe(answer: Classification | Embedding | FileRefused) -> tuple[str, dict[str, Any]]:
    """A status, and what belongs to it: the service's words for one result of many."""
    if isinstance(answer, FileRefused):
        error = {"code": answer.code, "status": answer.status, "detail": str(answer)}
        return "error", {"error": error}
    return "ok", asdict(answer)


def _read(file: BinaryIO, task: Task) -> dict[str, str]:
    answered = {}
    file.seek(0)
    whole = 0  # bytes
    for number, line in enumerate(file, start=1):
        try:
            if not line.endswith(b"\n"):
                if line[: len(BEGINNING)] != BEGINNING[: len(line)]:
                    raise ValueError  # somebody else's file, not to be cut
                break
            known = json.loads(line)
            if known["task"] != task:
                raise BadJournal(f"{file.name}:{number}: {known['task']}, not {task}")
            answered[known["file"]] = known["status"]
        except (ValueError, LookupError, TypeError):
            raise BadJournal(f"{file.name}:{number}: not a line of this command") from None
        whole += len(line)
    file.truncate(whole)
    return answered
