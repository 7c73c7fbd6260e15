"""Limits: how many cores this process can use, and how large an input can be."""

import os
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class InputLimits:
    """The size limits of one item. Decoders refuse larger items."""

    pixels: int = 64 * 2**20  # width times height, as the file's header declares them
    seconds: float = 600.0  # of audio
    text_bytes: int = 100_000


DEFAULT_LIMITS = InputLimits()


def affinity() -> set[int]:
    """The numbers of the cores that the calling thread may run on."""
    affine = hasattr(os, "sched_getaffinity")  # Linux has it, macOS does not
    return os.sched_getaffinity(0) if affine else set(range(os.cpu_count() or 1))


# Read once, by the main thread: a pinned lane, and the threads that it starts, see one core.
AFFINITY = frozenset(affinity())


def core_budget(cgroup: Path = CGROUP) -> int:
    """The number of whole cores that this process can use: its affinity or, if smaller, its quota.

    `os.cpu_count()` ignores the quota: a container with two cores on a host with 64 sees 64, and
    32 threads per core slow everything down.
    """
    cores = len(AFFINITY)
    quota = _cgroup_quota(cgroup)
    return max(1, min(cores, round(quota))) if quota else cores


def has_all_its_cores(cgroup: Path = CGROUP) -> bool:
    """Whether the CPU quota allows all cores of the affinity at the same time."""
    quota = _cgroup_quota(cgroup)
    return quota is None or quota >= len(AFFINITY)


def _cgroup_quota(cgroup: Path) -> float | None:
    """CPU seconds per second that cgroup version 2 or 1 grants; None without a limit."""
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
