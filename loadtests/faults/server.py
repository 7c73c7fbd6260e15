"""Server: a real `bentoml serve` with its workers, and what can be seen of it from outside."""

import http.client
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.compare import serving
from loadtests.compare.contestants import CONTESTANTS
from loadtests.compare.processes import PROC, Process, Tree

ASK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs, on a port of 127.0.0.1."""

    port: int
    tree: Tree

    def get(self, path: str) -> tuple[int, str]:
        """Status and body, over a connection of its own; status 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ASK_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()

    def metric(self, series: str, **labels: str) -> float:
        """The sum of all series of that name that have these labels."""
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            name, _, rest = line.partition("{" if "{" in line else " ")
            if name == series and all(label in rest for label in wanted):
                total += float(line.rpartition(" ")[2])
        return total

    def workers(self) -> list[Process]:
        """The processes that answer requests."""
        return [
            process
            for process in self.tree.processes()
            if process.parent == self.tree.root.pid and "--worker-id" in _command(process.id)
        ]

    def worker_ids(self) -> set[int]:
        return {worker.id for worker in self.workers()}

    def cpu_seconds(self) -> float:
        return self.tree.cpu_seconds()

    def memory_bytes(self) -> int:
        """Of all its processes, when the work that was begun is done."""
        self.tree.settle()
        return self.tree.pss_bytes()

    def forget_peaks(self) -> None:
        """Begin to watch for each worker's largest memory."""
        for worker in self.workers():
            (PROC / str(worker.id) / "clear_refs").write_text("5")

    def peak_growth_bytes(self, before: Mapping[int, int]) -> int:
        """The most that a worker held since `forget_peaks`, beyond its resident bytes before."""
        return max(_status_kib(number, "VmHWM") * 1024 - old for number, old in before.items())

    def resident_bytes(self) -> dict[int, int]:
        """Worker -> bytes."""
        return {worker.id: _status_kib(worker.id, "VmRSS") * 1024 for worker in self.workers()}

    def open_files(self) -> int:
        return sum(len(os.listdir(PROC / str(worker.id) / "fd")) for worker in self.workers())

    def threads(self) -> int:
        return sum(_status_kib(worker.id, "Threads") for worker in self.workers())


@contextmanager
def served(
    name: str,
    models: Path,
    workers: int,
    logs: Path,
    settings: Mapping[str, str],
    ready: int | None = None,
) -> Iterator[Server]:
    """A server of this checkout with all models of that folder ready in every worker.

    Args:
        name: of its log.
        settings: as environment variables.
        ready: how many models must be; by default, all.

    Raises:
        NotReady: it does not begin to serve.
    """
    place = {"SENSORIUM_MODELS": str(models.absolute()), "SENSORIUM_WORKERS": str(workers)}
    ours = replace(CONTESTANTS["sensorium"], name=name, env={**place, **settings})
    expected = workers * (ready or len(list(models.glob("*/*/manifest.yaml"))))
    with serving.served(ours, Path(), logs) as started:
        server = Server(started.port, started.tree)
        while server.metric("sensorium_models", state="ready") < expected:
            started.give_time(server.get("/readyz"))
        yield server


def _command(process_id: int) -> str:
    with suppress(OSError):  # it has ended since
        return (PROC / str(process_id) / "cmdline").read_text().replace("\0", " ")
    return ""


def _status_kib(process_id: int, name: str) -> int:
    """A number of /proc/ID/status: KiB where it is memory; 0 where the process has ended."""
    with suppress(OSError):
        status = (PROC / str(process_id) / "status").read_text()
        if found := re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE):
            return int(found[1])
    return 0
