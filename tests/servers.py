"""Real servers for tests: processes on free ports that are ready when the `with` block begins."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

import httpx
import psutil

from loadtests.compare.processes import free_ports
from loadtests.compare.processes import plain_environment as plain_environment

PROJECT = Path(__file__).parents[1]
READY_SECONDS = 60.0
STOP_SECONDS = 30.0


class NotServing(Exception):
    """A server did not become ready, or did not end."""


@contextmanager
def served(
    models: Path,
    *,
    workers: int = 1,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Iterator[str]:
    """The base URL of a real `bentoml serve` of this checkout with the models of that folder.

    Unless `env` says otherwise it lets work wait for a minute: by default a crowd that this
    machine cannot answer within 0.75 s is refused, and how fast a machine is no test may ask.
    """
    settings = {
        "SENSORIUM_MODELS": str(models),
        "SENSORIUM_WORKERS": str(workers),
        "SENSORIUM_MAX_WAIT_MS": "60000",
    }
    command = [sys.executable, "-m", "bentoml", "serve", "service.app:Sensorium"]
    with running(
        command, cwd=PROJECT, env={**plain_environment(), **settings, **(env or {})}, port=port
    ) as url:
        yield url


@contextmanager
def running(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    user: int | None = None,
    port: int | None = None,
) -> Iterator[str]:
    """The base URL of a `bentoml serve` command, from `/readyz` saying 200 until SIGTERM.

    It gets a free port, unless one is given, and a BENTOML_HOME of its own, unless `env` names
    one: every `bentoml serve` empties the metrics of all others with the same home. `user` is whose
    process it is, by number; only root can choose.

    Raises:
        NotServing: it is not ready in time, or ends early, or does not end when told to.
    """
    port = port or free_port()
    with TemporaryDirectory(prefix="sensorium-server-") as folder:
        log = Path(folder) / "log.txt"
        home = {"BENTOML_HOME": folder, "BENTOML_DO_NOT_TRACK": "True"}
        address = {"BENTOML_HOST": "127.0.0.1", "BENTOML_PORT": str(port)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**home, **env, **address},
                **as_user(user),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            url = f"http://127.0.0.1:{port}"
            try:
                _wait_until_ready(url, process)
                yield url
            except Exception as error:
                error.add_note(f"the server's log:\n{_read(log)}")
                raise
            finally:
                _stop(process, log)


@contextmanager
def small_server(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Gives every request that answer; its port, and the requests that it got."""
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            head = f"{self.requestline}\n{self.headers}"
            got.append(head.encode() + body)
            self.wfile.write(answer)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port, got
        finally:
            server.shutdown()
            thread.join()


class AsUser(TypedDict, total=False):
    """The arguments of `subprocess` that say whose a process is."""

    user: int
    group: int
    extra_groups: list[int]


def as_user(number: int | None) -> AsUser:
    """That user, without any group of ours; with None, the present one."""
    return {} if number is None else {"user": number, "group": number, "extra_groups": []}


def free_port() -> int:
    """One of `free_ports`."""
    [port] = free_ports(1)
    return port


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    answer = "nothing"
    deadline = time.monotonic() + READY_SECONDS
    with httpx.Client(base_url=url, timeout=5, trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise NotServing(f"it ended with status {process.returncode}")
            try:
                response = client.get("/readyz")
            except httpx.TransportError as error:
                answer = repr(error)
            else:
                answer = f"{response.status_code} {response.text}"
                if response.status_code == 200:
                    return
            time.sleep(0.05)
    raise NotServing(f"not ready after {READY_SECONDS:.0f} s; it said {answer}")


def _stop(process: subprocess.Popen[bytes], log: Path) -> None:
    """SIGTERM, as an operator would; what is left of its processes is killed.

    They are awaited one by one: `make` ends before the server that it has passed the signal on to.
    """
    try:
        processes = [psutil.Process(process.pid)]
        processes += processes[0].children(recursive=True)
    except psutil.NoSuchProcess:  # it ended by itself
        processes = []
    process.terminate()
    _, late = psutil.wait_procs(processes, STOP_SECONDS)
    for each in late:
        each.kill()
    process.wait()
    if late:
        raise NotServing(f"it did not end after SIGTERM:\n{_read(log)}")


def _read(log: Path) -> str:
    return log.read_text(errors="replace")
