"""Limits: how many cores there really are, and how large an input may be."""

import os
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class InputLimits:
    """What one item may cost before it reaches a model; decoders refuse what is beyond."""

    pixels: int = 64 * 2**20  # width times height, as the file's header declares them
    seconds: float = 600.0  # of sound
    text_bytes: int = 100_000


def affinity() -> set[int]:
    """The numbers of the cores that the calling thread may run on."""
    affine = hasattr(os, "sched_getaffinity")  # Linux has it, macOS does not
    return os.sched_getaffinity(0) if affine else set(range(os.cpu_count() or 1))


# Read once, by the thread that starts: later a thread may keep to one core, and those that it
# starts would take that for all.
AFFINITY = frozenset(affinity())


def core_budget(cgroup: Path = CGROUP) -> int:
    """The whole cores that this process may use: its affinity, and its cgroup's quota if smaller.

    A container that is limited to two cores on a host of sixty-four sees sixty-four in
    `os.cpu_count()`, and thirty-two threads for each core make everything slow.
    """
    cores = len(AFFINITY)
    quota = _cgroup_quota(cgroup)
    return max(1, min(cores, round(quota))) if quota else cores


def has_all_its_cores(cgroup: Path = CGROUP) -> bool:
    """Whether no quota keeps this process from all cores of its affinity at once."""
    quota = _cgroup_quota(cgroup)
    return quota is None or quota >= len(AFFINITY)


def _cgroup_quota(cgroup: Path) -> float | None:
    """CPU seconds granted a second, by cgroup version 2 or 1; None where there is no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)
