"""Environments: a virtual environment for each of the others, from its pinned versions."""

import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements")


class NotInstalled(Exception):
    """An environment cannot be made; the message is pip's last word."""


def install(name: str, folder: Path) -> None:
    """Make `folder`/`name`, unless it is there with just these versions.

    Raises:
        NotInstalled: pip could not.
    """
    wanted = (REQUIREMENTS / f"{name}.txt").read_text()
    environment = folder / name
    stamp = environment / "requirements.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {name} ({wanted.count('==')} packages) ...", flush=True)
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "-r"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(environment)],
        [*pip, str(REQUIREMENTS / f"{name}.txt")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
            raise NotInstalled(errors[-1] if errors else f"status {done.returncode}")
    stamp.write_text(wanted)
