"""The machine, and the versions of what ran on it."""

import json
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ("bentoml", "fastapi", "litserve", "mlserver", "ray", "onnxruntime", "pillow", "uvicorn")
PROGRAM = """
import json, sys
from importlib.metadata import distributions
wanted = sys.argv[1:]
found = {d.name.lower(): d.version for d in distributions() if d.name.lower() in wanted}
print(json.dumps({"python": sys.version.split()[0], **found}))
"""


def describe_machine() -> dict[str, str | int | float]:
    """What someone must know before comparing these figures with others."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
        "system": platform.platform(),
        "load_before": round(os.getloadavg()[0], 2),
        "commit": _output(["git", "describe", "--always", "--dirty"]),
    }


def read_versions(python: Path) -> dict[str, str]:
    """Of the packages that matter, in that interpreter's environment."""
    versions: dict[str, str] = json.loads(_output([str(python), "-c", PROGRAM, *PACKAGES]))
    return versions


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
