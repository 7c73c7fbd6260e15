"""Serving: one contestant, from its start to its end."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.compare.contestants import Contestant, Place, python_of, variables
from loadtests.compare.processes import Tree, free_ports, running

ROOT = Path(__file__).parents[2]
READY_SECONDS = 90.0


class NotReady(Exception):
    """A server did not answer in time, or ended."""


@dataclass(frozen=True, slots=True)
class Server:
    """A contestant that runs."""

    contestant: Contestant
    port: int
    tree: Tree
    log: Path
    started: float  # monotonic

    def age(self) -> float:
        return time.monotonic() - self.started

    def give_time(self, why: object) -> None:
        """Wait a moment before it is asked again.

        Raises:
            NotReady: it ended, or had time enough; `why` is what it said.
        """
        if self.tree.root.poll() is not None:
            raise NotReady(f"it ended; see {self.log}")
        if self.age() > READY_SECONDS:
            raise NotReady(f"not ready in time: {why}; see {self.log}")
        time.sleep(0.05)


@contextmanager
def served(contestant: Contestant, environments: Path, logs: Path) -> Iterator[Server]:
    """One server, on a free port of 127.0.0.1."""
    with tempfile.TemporaryDirectory(prefix="compare-", ignore_cleanup_errors=True) as folder:
        python = python_of(contestant.environment, environments)
        place = Place(python, free_ports(1)[0], Path(folder))
        log = logs / f"{contestant.name}.log"
        env = variables(contestant, place, ROOT)
        started = time.monotonic()
        with running(contestant.command(place), cwd=ROOT, env=env, log=log) as tree:
            yield Server(contestant, place.port, tree, log, started)
