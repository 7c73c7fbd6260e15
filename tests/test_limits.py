"""How many cores there really are, and how they are shared out."""

import os
from pathlib import Path

import pytest

from service.errors import OperatorError
from service.limits import core_budget
from service.settings import Settings, read_settings

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert core_budget(tmp_path) == CORES
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert core_budget(tmp_path) == CORES


def test_a_quota_below_the_affinity_counts(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert core_budget(tmp_path) == 1


def test_less_than_half_a_core_is_one(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("20000 100000\n")
    assert core_budget(tmp_path) == 1


def test_a_quota_beyond_the_affinity_gives_no_cores(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("6400000 100000\n")
    assert core_budget(tmp_path) == CORES


@pytest.mark.parametrize(("quota", "cores"), [("-1", CORES), ("100000", 1)])
def test_the_first_version_of_cgroups(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert core_budget(tmp_path) == cores


@pytest.mark.parametrize(
    ("cores", "workers", "lanes", "threads"),
    [(1, 1, 1, 1), (2, 1, 2, 1), (2, 2, 1, 1), (8, 1, 2, 4), (8, 2, 2, 2), (3, 8, 1, 1)],
)
def test_workers_times_lanes_times_threads_are_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, lanes: int, threads: int
) -> None:
    monkeypatch.setattr("service.settings.core_budget", lambda: cores)
    settings = Settings(workers=workers)
    assert (settings.lanes_per_model, settings.threads_per_lane) == (lanes, threads)


def test_an_operator_may_set_them_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANES", "THREADS", "DECODE_THREADS"):
        monkeypatch.setenv(f"SENSORIUM_{name}", "5")
    settings = Settings()
    assert settings.lanes_per_model == settings.threads_per_lane == settings.decoders == 5


@pytest.mark.parametrize("value", ["inf", "nan", "Infinity"])
@pytest.mark.parametrize(
    "name", ["STUCK_SECONDS", "BODY_SECONDS", "CLIENT_RATE", "MODEL_POLL_SECONDS"]
)
def test_a_number_of_seconds_has_an_end(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"SENSORIUM_{name}", value)
    with pytest.raises(OperatorError, match=f"SENSORIUM_{name}: Input should be a finite number"):
        read_settings()
