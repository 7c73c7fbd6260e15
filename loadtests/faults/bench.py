"""Bench: what every fault is tried on, and how hard."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.faults.server import Server, served


@dataclass(frozen=True, slots=True)
class Bench:
    """One number of workers, one set of models, one place for logs."""

    models: Path
    photos: Path | None  # a folder of real ones
    workers: int
    quick: bool
    minutes: float  # of the endurance run
    into: Path

    def scaled(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @contextmanager
    def server(
        self, name: str, models: Path | None = None, ready: int | None = None, **settings: str
    ) -> Iterator[Server]:
        """A server for one fault; its log is named by the fault and the number of workers.

        Args:
            ready: how many models must be, where others of the folder cannot.
        """
        log_name = f"{name}-{self.workers}"
        folder = models or self.models
        with served(log_name, folder, self.workers, self.into, settings, ready) as server:
            yield server
