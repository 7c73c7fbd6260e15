"""Processes: a server's own and all that it started, what they cost, and their end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import NoReturn

# What would change a server that is started here, or what is asked of it.
FOREIGN = ("SENSORIUM_", "BENTOML_", "PROMETHEUS_", "MLSERVER_", "RAY_", "COMPARE_")
PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 3.0
IDLE_SHARE = 0.2  # of one core: two ticks in an interval
SETTLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment; the start time tells it from a later one of the same id."""

    id: int
    parent: int
    started: int  # ticks after boot
    cpu_seconds: float  # user and system


@dataclass(frozen=True, slots=True)
class Tree:
    """A process that was started here, with its children and theirs."""

    root: subprocess.Popen[bytes]

    def processes(self) -> list[Process]:
        everything = list(_all_processes())
        found = [process for process in everything if process.id == self.root.pid]
        for parent in found:  # grows while it is walked
            found += [process for process in everything if process.parent == parent.id]
        return found

    def cpu_seconds(self) -> float:
        return sum(process.cpu_seconds for process in self.processes())

    def pss_bytes(self) -> int:
        """Memory, that which is shared counted once."""
        return sum(_memory_bytes(process.id, "Pss") for process in self.processes())

    def allocated_bytes(self) -> int:
        """Memory without mapped files, whose part in `pss_bytes` depends on who else maps them."""
        return sum(_memory_bytes(process.id, "Pss_Anon") for process in self.processes())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It takes no part of the machine's time, but where it is `awake`."""
        self._send(signal.SIGSTOP)
        try:
            yield
        finally:
            self._send(signal.SIGCONT)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Until it has done what it began, lest it count the pause as time that this took."""
        self._send(signal.SIGCONT)
        try:
            yield
            self.settle()
        finally:
            self._send(signal.SIGSTOP)

    def _send(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process.id, number)

    def settle(self) -> None:
        """Wait until work that nobody waits for any more is done."""
        deadline = time.monotonic() + SETTLE_SECONDS
        spent, interval = self.cpu_seconds(), 0.1
        while time.monotonic() < deadline:
            time.sleep(interval)
            before, spent = spent, self.cpu_seconds()
            if spent - before <= IDLE_SHARE * interval:
                return


def plain_environment() -> dict[str, str]:
    """This process's environment variables, without those that would change a server."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}


@contextmanager
def running(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path
) -> Iterator[Tree]:
    """A command with all that it starts, until the end of the `with` block."""
    with log.open("wb") as output:
        root = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us, who then end it
        )
        tree = Tree(root)
        try:
            yield tree
        finally:
            _stop(tree)


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a program that has servers run. Whatever signal ends it, it ends them first.

    Shells let what they put into the background ignore SIGINT; SIGTERM would leave them running.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("broken off; the servers are stopped", file=sys.stderr)
        sys.exit(130)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing has now, and that no connection is given before their use."""
    ports: list[int] = []
    for port in SystemRandom().sample(range(10_000, 32_768), 100 * count):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"{100 * count} ports were tried, and {len(ports)} are free")


def _all_processes() -> Iterator[Process]:
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has ended since
                yield parse_stat((folder / "stat").read_text())


def parse_stat(line: str) -> Process:
    """One process of /proc/ID/stat; the name, in brackets, may itself hold blanks and brackets."""
    before, _, after = line.rpartition(")")
    fields = after.split()
    return Process(
        id=int(before.split()[0]),
        parent=int(fields[1]),
        started=int(fields[19]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / TICKS,
    )


def _memory_bytes(process_id: int, kind: str) -> int:
    with suppress(OSError):
        for line in (PROC / str(process_id) / "smaps_rollup").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                return int(line.split()[1]) * 1024
    return 0


def _stop(tree: Tree) -> None:
    """SIGTERM to the root, as an operator would; what is left of the others is killed by id."""
    others = {(process.id, process.started) for process in tree.processes()}
    tree.root.terminate()
    with suppress(subprocess.TimeoutExpired):
        tree.root.wait(STOP_SECONDS)
    for process in _all_processes():
        if (process.id, process.started) in others:
            with suppress(ProcessLookupError):
                os.kill(process.id, signal.SIGKILL)
    tree.root.wait()
