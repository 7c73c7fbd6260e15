"""Changes: a model's versions load, unload and switch while clients send without pause.

python -m loadtests.changes --url http://127.0.0.1:3000 --model NAME --kind image FILE

The model's folder holds versions 1 and 2; it is best if they answer the file differently. With
`--pid`, once for each worker, memory before and after is told as well.
"""

import argparse
import json
import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SETTLING = 2  # rounds before memory is taken for the first time: allocators grow at first
PAGE = os.sysconf("SC_PAGESIZE")


@dataclass(slots=True)
class Findings:
    """What came of it."""

    answers: Counter[str] = field(default_factory=Counter)  # by version
    wrong: Counter[str] = field(default_factory=Counter)  # by what was wrong
    operations: int = 0
    memory: tuple[int, int] = (0, 0)  # bytes resident, before and after
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def growth(self) -> float:
        """Of the memory, as a share."""
        before, after = self.memory
        return after / before - 1 if before else 0.0


class Serving:
    """The versions that may answer; a window gathers all that may while a request is under way."""

    def __init__(self, *versions: str) -> None:
        self._lock = threading.Lock()
        self._versions = set(versions)
        self._windows: list[set[str]] = []

    def change(self, *versions: str) -> None:
        with self._lock:
            self._versions = set(versions)
            for window in self._windows:
                window.update(versions)

    @contextmanager
    def window(self) -> Iterator[set[str]]:
        with self._lock:
            window = set(self._versions)
            self._windows.append(window)
        try:
            yield window
        finally:
            with self._lock:
                self._windows = [other for other in self._windows if other is not window]


@dataclass(frozen=True, slots=True)
class Target:
    """A service, a model of it, and a file to ask with."""

    url: str
    model: str
    kind: str  # image, text or audio
    payload: bytes

    def connect(self) -> HTTPConnection:
        address = urlsplit(self.url)
        return HTTPConnection(address.hostname or "", address.port, timeout=60)

    def ask(self, connection: HTTPConnection, version: str | None = None) -> tuple[int, Any]:
        query = f"model={self.model}" + (f"&version={version}" if version else "")
        return _call(connection, "POST", f"/v1/{self.kind}/classify?{query}", self.payload)

    def change(self, connection: HTTPConnection, verb: str, path: str, body: Any) -> None:
        """Raises:
        RuntimeError: the service refuses.
        """
        address = f"/v2/repository/models/{self.model}/{path}"
        status, answer = _call(connection, verb, address, json.dumps(body).encode())
        if status != 200:
            raise RuntimeError(f"{path}: {status}: {answer}")


def change_under_load(
    target: Target, clients: int, operations: int, pids: Sequence[int] = ()
) -> Findings:
    """Ask without pause, naming no version, while versions come and go in whole rounds."""
    with closing(target.connect()) as connection:
        return _change(target, connection, clients, operations, pids)


def _change(
    target: Target,
    connection: HTTPConnection,
    clients: int,
    operations: int,
    pids: Sequence[int],
) -> Findings:
    findings, ended = Findings(), threading.Event()
    target.change(connection, "POST", "load", {})
    target.change(connection, "PUT", "routing", {})
    known = {version: _labels(target.ask(connection, version)) for version in ("1", "2")}
    serving = Serving("2")
    asking = [
        threading.Thread(target=_keep_asking, args=(target, serving, known, findings, ended))
        for _ in range(clients)
    ]
    for thread in asking:
        thread.start()
    try:
        for step in STEPS * SETTLING:
            _take(step, target, connection, serving)
        before = _resident_bytes(pids)
        for step in STEPS * math.ceil(operations / len(STEPS)):  # ends with what it began with
            _take(step, target, connection, serving)
            findings.operations += 1
        findings.memory = before, _resident_bytes(pids)
    finally:
        ended.set()
        for thread in asking:
            thread.join()
    return findings


@dataclass(frozen=True, slots=True)
class Step:
    """One operation, and who may answer while it is made, and after it."""

    verb: str
    path: str
    body: dict[str, Any]
    during: tuple[str, ...]
    after: tuple[str, ...]


STEPS = (  # begins and ends with both versions loaded, and 2 answering
    Step("POST", "unload?version=2", {}, ("1", "2"), ("1",)),
    Step("POST", "load?version=2", {}, ("1", "2"), ("2",)),
    Step("PUT", "routing", {"weights": {"1": 1}}, ("1", "2"), ("1",)),
    Step("POST", "unload?version=2", {}, ("1",), ("1",)),
    Step("POST", "load?version=2", {}, ("1",), ("1",)),
    Step("PUT", "routing", {"weights": {"1": 9, "2": 1}}, ("1", "2"), ("1", "2")),
    Step("PUT", "routing", {}, ("1", "2"), ("2",)),
    Step("POST", "unload?version=1", {}, ("2",), ("2",)),
    Step("POST", "load", {}, ("2",), ("2",)),
)


def _take(step: Step, target: Target, connection: HTTPConnection, serving: Serving) -> None:
    serving.change(*step.during)
    target.change(connection, step.verb, step.path, step.body)
    serving.change(*step.after)


def _keep_asking(
    target: Target,
    serving: Serving,
    known: dict[str, list[str]],
    findings: Findings,
    ended: threading.Event,
) -> None:
    with closing(target.connect()) as connection:
        while not ended.is_set():
            with serving.window() as window:
                status, answer = target.ask(connection)
            _judge(status, answer, window, known, findings)


def _judge(
    status: int,
    answer: Any,
    window: set[str],
    known: dict[str, list[str]],
    findings: Findings,
) -> None:
    with findings.lock:
        if status != 200:
            findings.wrong[f"{status}: {answer}"] += 1
        elif answer["version"] not in window:
            findings.wrong[f"version {answer['version']} where {sorted(window)} may answer"] += 1
        elif _labels((status, answer)) != known[answer["version"]]:
            findings.wrong[f"not the answer of version {answer['version']}"] += 1
        else:
            findings.answers[answer["version"]] += 1


def _labels(answer: tuple[int, Any]) -> list[str]:
    """The likeliest, without the scores, which differ in rounding from batch to batch.

    Raises:
        RuntimeError: there is no answer.
    """
    status, document = answer
    if status != 200:
        raise RuntimeError(f"{status}: {document}")
    return [result["labels"][0]["label"] for result in document["results"]]


def _call(connection: HTTPConnection, verb: str, path: str, body: bytes) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"} if verb == "PUT" else {}
    connection.request(verb, path, body, headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read() or b"{}")


def _resident_bytes(pids: Sequence[int]) -> int:
    pages = (Path(f"/proc/{pid}/statm").read_text().split()[1] for pid in pids)
    return sum(int(count) * PAGE for count in pages)


def main() -> None:
    """Raises:
    SystemExit: an answer was wrong.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--model", required=True)
    parser.add_argument("--kind", required=True, choices=("image", "text", "audio"))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--operations", type=int, default=100)
    parser.add_argument("--pid", type=int, action="append", default=[], help="of a worker")
    asked = parser.parse_args()
    target = Target(asked.url, asked.model, asked.kind, asked.file.read_bytes())
    findings = change_under_load(target, asked.clients, asked.operations, asked.pid)
    print(f"{findings.operations} operations, {sum(findings.answers.values())} answers", end="")
    print(f" by version: {dict(findings.answers)}; wrong: {dict(findings.wrong) or 'none'}")
    if asked.pid:
        before, after = (size / 2**20 for size in findings.memory)
        print(f"memory {before:.0f} MiB, then {after:.0f} MiB: {findings.growth:+.1%}")
    sys.exit(bool(findings.wrong))


if __name__ == "__main__":
    main()
