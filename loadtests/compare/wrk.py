"""Closed loop: wrk's connections, each of which asks again as soon as it is answered."""

import json
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from loadtests.compare.outcome import Outcome

SCRIPT = Path(__file__).with_name("post.lua")
TIMEOUT_SECONDS = 60


class WrkFailed(Exception):
    """wrk is not here, or gave no result."""


def find_wrk() -> str:
    """Raises:
    WrkFailed: it is not installed.
    """
    if found := shutil.which("wrk"):
        return found
    raise WrkFailed("wrk is not here: apt-get install wrk")


def ask_again_and_again(
    url: str, content_type: str, bodies: Sequence[Path], concurrency: int, seconds: float
) -> Outcome:
    """POST the bodies in turn over so many connections for so long.

    Raises:
        WrkFailed: it gave no result.
    """
    command = [
        *(find_wrk(), "--threads", "1", "--connections", str(concurrency)),
        *("--duration", f"{max(1, round(seconds))}s", "--timeout", f"{TIMEOUT_SECONDS}s"),
        *("--script", str(SCRIPT), url, "--", content_type, *map(str, bodies)),
    ]
    before = _children_cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WrkFailed(done.stderr or done.stdout)
    return parse_outcome(done.stdout, _children_cpu_seconds() - before)


def parse_outcome(output: str, client_cpu_seconds: float) -> Outcome:
    """What `post.lua` printed as the last line.

    Raises:
        WrkFailed: it printed nothing of that kind.
    """
    line = (output.strip().splitlines() or [""])[-1]
    try:
        return Outcome(**json.loads(line), client_cpu_seconds=client_cpu_seconds)
    except (ValueError, TypeError):
        raise WrkFailed(f"wrk said {output!r}") from None


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
