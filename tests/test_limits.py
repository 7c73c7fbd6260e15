"""How many cores there really are, and how they are shared out."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from service.errors import OperatorError
from service.limits import AFFINITY, core_budget, has_all_its_cores
from service.runtime.placement import pin
from service.settings import Settings, read_settings
from tests.marks import has_two_cores, keeps_to_cores

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


@keeps_to_cores
@pytest.mark.parametrize(
    ("settings", "pinned"),
    [
        ({"lanes": 2, "threads": 1}, True),
        ({"lanes": 2, "threads": 1, "pin_threads": False}, False),
        ({"lanes": 2, "threads": 1, "workers": 2}, False),
        ({"lanes": 2, "threads": 2}, False),
        ({"lanes": 1, "threads": 1}, False),  # as with a worker for each core
        ({"lanes": 3, "threads": 1}, False),
    ],
)
def test_lanes_are_pinned_where_each_has_a_core(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], pinned: bool
) -> None:
    monkeypatch.setattr("service.settings.AFFINITY", {0, 1})
    monkeypatch.setattr("service.settings.has_all_its_cores", lambda: True)
    assert Settings(**settings).one_lane_per_core is (pinned and hasattr(os, "sched_setaffinity"))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, True),
        ({"exclusive_threads": 3}, False),
        ({"exclusive_threads": 5}, False),
        ({"pin_threads": False}, False),
        ({"workers": 2}, False),  # each has two, nobody knows which
        ({"threads": 4}, False),  # a batch among others has as many
    ],
)
def test_threads_of_a_lone_batch_have_a_core_each_where_the_cores_are_ours(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], kept: bool
) -> None:
    monkeypatch.setattr("service.settings.AFFINITY", {7, 8, 6, 9})
    monkeypatch.setattr("service.settings.core_budget", lambda: 4)
    monkeypatch.setattr("service.settings.has_all_its_cores", lambda: True)
    assert Settings(**settings).exclusive_cores == ((6, 7, 8, 9) if kept else ())
    monkeypatch.setattr("service.settings.has_all_its_cores", lambda: False)
    assert Settings(**settings).exclusive_cores == ()


@pytest.mark.parametrize(("share", "all_its_cores"), [(None, True), (1.0, True), (0.9, False)])
def test_a_quota_may_keep_a_process_from_all_its_cores(
    tmp_path: Path, share: float | None, all_its_cores: bool
) -> None:
    if share:
        (tmp_path / "cpu.max").write_text(f"{CORES * share * 100_000:.0f} 100000\n")
    assert has_all_its_cores(tmp_path) is all_its_cores


@has_two_cores
@keeps_to_cores
def test_a_thread_that_keeps_to_a_core_sees_all_cores_of_the_process() -> None:
    def placement() -> tuple[object, ...]:
        settings = Settings(lanes=len(AFFINITY), threads=1)
        return (
            core_budget(),
            has_all_its_cores(),
            settings.exclusive_cores,
        )

    wanted, found = placement(), []

    def place() -> None:
        pin(min(AFFINITY))
        found.append(placement())

    thread = threading.Thread(target=place)
    thread.start()
    thread.join()
    assert found == [wanted]


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
