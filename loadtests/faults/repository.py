"""The models folder in disorder, and management calls that come together."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.faults.bench import Bench
from loadtests.faults.examples import read_examples
from loadtests.faults.figures import Figure
from loadtests.faults.graphs import write_brittle
from loadtests.faults.load import ask_for
from loadtests.faults.server import Server
from loadtests.wire import Answer, Connections, post

LISTINGS = ("/readyz", "/v1/models", "/metrics", "/livez")
NOTICED_SECONDS = 15.0
AT_ONCE = 2
ASKED_SECONDS = 2.0
VERSIONS = range(2, 6)
ROUNDS = 20
CALLS = 8  # over as many connections: some reach a worker that is not stopped
DEADLINE_MS = 1000
DEADLINE_SECONDS = 5.0  # by which a call with that deadline is answered


def damaged_folder(bench: Bench) -> Iterator[Figure]:
    """Odd names, links and files: before the start, and while the folder is watched."""
    with _models() as models:
        examples = read_examples(models)
        _damage(models, "before")
        with bench.server(
            "folder", models, len(examples), SENSORIUM_MODEL_POLL_SECONDS="0.5"
        ) as server:
            workers = server.worker_ids()
            yield Figure("listings not answered 200 from the start", _failing(server), most=0)
            _damage(models, "while-watched")
            write_brittle(models, "latecomer")
            noticed = _seconds_until_served(server, "latecomer")
            yield Figure("a model added after that serves after, s", noticed, most=NOTICED_SECONDS)
            yield Figure("listings not answered 200 after that", _failing(server), most=0)
            log = asyncio.run(ask_for(ASKED_SECONDS, server.port, examples, AT_ONCE))
            yield Figure("requests answered right", len(log.right()), least=1)
            yield Figure("requests not answered right", len(log.wrong()), most=0)
            yield Figure("restarts", len(server.worker_ids() - workers), most=0)


def management(bench: Bench) -> Iterator[Figure]:
    """Calls for several versions at the same moment; then one while a worker is stopped."""
    with _models() as models:
        for version in VERSIONS:
            write_brittle(models, version=version)
        with bench.server("management", models) as server:
            refused, lost = asyncio.run(_change_together(server))
            yield Figure("calls not answered 200", refused, most=0)
            yield Figure("calls answered 200 that changed nothing", lost, most=0)
            if bench.workers > 1:
                yield from _call_while_stopped(server)


@contextmanager
def _models() -> Iterator[Path]:
    """A folder with one good model."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        write_brittle(models)
        yield models


def _damage(models: Path, when: str) -> None:
    """What editors, copies and other file systems leave in a folder."""
    (models / f".#{when}").symlink_to("nowhere")
    (models / f"dangling-{when}").symlink_to("nowhere")
    (models / f"loop-{when}").symlink_to(f"loop-{when}")
    (models / f"file-{when}").write_text("not a folder")
    (models / f"\udce9t\udce9-{when}").mkdir()  # a name that is not UTF-8
    for number, version in enumerate(("²", "3 copy", "007", "9" * 12)):
        shutil.copytree(models / "brittle/1", models / f"odd-{number}-{when}" / version)
    (models / f"linked-{when}").mkdir()
    (models / f"linked-{when}/1").symlink_to("nowhere")
    (models / f"queue-{when}/1").mkdir(parents=True)
    os.mkfifo(models / f"queue-{when}/1/manifest.yaml")


def _failing(server: Server) -> int:
    return sum(server.get(path)[0] != 200 for path in LISTINGS for _ in range(4))


def _seconds_until_served(server: Server, name: str) -> float:
    began = time.monotonic()
    while (taken := time.monotonic() - began) < 2 * NOTICED_SECONDS:
        if f'"{name}"' in server.get("/v1/models")[1]:
            break
        time.sleep(0.1)
    return taken


async def _change_together(server: Server) -> tuple[int, int]:
    """Unload four versions at once, then load them: calls refused, and calls without effect."""
    refused = lost = 0
    for _ in range(ROUNDS):
        for action, serving in {"unload": set(), "load": set(map(str, VERSIONS))}.items():
            async with Connections(server.port) as connections:
                answers = await asyncio.gather(
                    *(_call(connections, f"{action}?version={version}") for version in VERSIONS)
                )
                refused += sum(answer.status != 200 for answer in answers)
                lost += len(await _serving(connections) ^ {"1", *serving})
    return refused, lost


async def _call(connections: Connections, action: str, deadline_ms: int = 30_000) -> Answer:
    path = f"/v2/repository/models/brittle/{action}"
    return await connections.ask(
        post(path, "application/json", b"", {"X-Timeout-Ms": str(deadline_ms)})
    )


async def _serving(connections: Connections) -> set[str]:
    """The versions of the model that serve."""
    answer = await connections.ask(post("/v2/repository/index", "application/json", b""))
    return {each["version"] for each in json.loads(answer.body) if each["state"] == "READY"}


def _call_while_stopped(server: Server) -> Iterator[Figure]:
    """It ends at its deadline, and names the worker that did not follow."""
    stopped = min(server.worker_ids())
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    try:
        status, names_it = asyncio.run(_call_until_answered(server.port, stopped))
    finally:
        os.kill(stopped, signal.SIGCONT)
    taken = time.monotonic() - began
    yield Figure("a worker is stopped: a call ends after, s", taken, most=DEADLINE_SECONDS)
    yield Figure("its status", status, least=500, most=504)
    yield Figure("it names the worker", names_it, least=1)


async def _call_until_answered(port: int, stopped: int) -> tuple[int, bool]:
    """Status, and whether the answer names the worker; a stopped one takes connections as well."""
    async with Connections(port) as connections:
        calls = [
            asyncio.ensure_future(_call(connections, "unload?version=2", DEADLINE_MS))
            for _ in range(CALLS)
        ]
        done, left = await asyncio.wait(
            calls, timeout=2 * DEADLINE_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        for call in left:
            call.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    if not done:
        return 0, False
    answer = done.pop().result()
    return answer.status, str(stopped) in answer.body.decode()
