"""Defaults: what the service makes of this machine by itself."""

import json
import subprocess
import sys
from dataclasses import dataclass

from loadtests.compare.serving import ROOT, NotReady

# In a process of its own: the service reads its quota and affinity better than we would.
PROGRAM = """
import json
from service.limits import core_budget
from service.settings import Settings

settings = Settings()
print(json.dumps({
    "cores": core_budget(),
    "workers": settings.workers,
    "lanes": settings.lanes_per_model,
    "threads": settings.threads_per_lane,
    "decode_threads": settings.decoders,
}))
"""


@dataclass(frozen=True, slots=True)
class Defaults:
    cores: int
    workers: int
    lanes: int
    threads: int
    decode_threads: int


def read_defaults() -> Defaults:
    """What would be served with now, the environment included.

    Raises:
        NotReady: a setting of the environment is wrong.
    """
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReady(done.stderr)
    return Defaults(**json.loads(done.stdout))
