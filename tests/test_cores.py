"""Placement: which batch may take all cores, and which threads yield."""

import os
import subprocess
import sys
import threading

import pytest

from service.errors import NotReady
from service.inference.pipeline import Pipeline
from service.limits import affinity
from service.runtime.placement import (
    NICENESS,
    QUIET_SECONDS,
    Batches,
    lower_priority,
    pin,
)
from tests.marks import keeps_to_cores, knows_threads


def test_a_batch_gets_the_core_with_the_fewest_others() -> None:
    batches = Batches([4, 7])
    with batches.computing() as (_, first):
        with batches.computing() as (_, second), batches.computing() as (_, third):
            assert (first, second, third) == (4, 7, 4)
        with batches.computing() as (_, again):
            assert again == 7


def test_a_lane_gets_its_last_core_again_where_that_is_as_free_as_another() -> None:
    batches = Batches([4, 7])
    with batches.computing(last=7) as (_, core):
        assert core == 7
        with batches.computing(last=7) as (_, other):
            assert other == 4


def test_a_batch_that_is_alone_has_the_core_that_its_run_leaves_to_it() -> None:
    batches = Batches([9, 4, 7])
    with batches.computing(last=9, exclusive_core=4) as (exclusive, core):
        assert (exclusive, core) == (True, 4)
        with batches.computing(last=4, exclusive_core=4) as (exclusive, core):
            assert (exclusive, core) == (False, 7), "4 is taken"


def test_a_batch_that_fails_is_counted_no_more() -> None:
    batches = Batches()
    with pytest.raises(RuntimeError, match="broken"), batches.computing():
        raise RuntimeError("broken")
    with batches.computing() as (exclusive, _):
        assert exclusive


def test_a_batch_is_alone_after_a_while_without_company(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, now = Batches(), 1000.0
    monkeypatch.setattr("service.runtime.placement.perf_counter", lambda: now)

    def is_exclusive(*, more: bool = False) -> bool:
        with batches.computing(more=more) as (exclusive, _):
            return exclusive

    assert is_exclusive()
    assert is_exclusive()
    with batches.computing():
        assert not is_exclusive()
        now += 1  # and both are there until now
        with batches.computing():
            now += 1
    assert not is_exclusive()
    now += QUIET_SECONDS
    assert not is_exclusive()
    now += 0.001
    assert is_exclusive()
    assert not is_exclusive(more=True)
    now += QUIET_SECONDS
    assert not is_exclusive()


@keeps_to_cores
def test_a_thread_keeps_to_a_core_until_it_is_let_go() -> None:
    own = affinity()
    core = max(own)
    seen = []

    def work() -> None:
        for wanted in (core, None, 10_000):  # there is no such core, and nothing happens
            pin(wanted)
            seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{core}, own, own]
    assert affinity() == own


@pytest.mark.anyio
async def test_a_file_is_refused_where_no_decoder_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pipeline = Pipeline(decoders=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(NotReady, match="no decoder is free: can't start new thread") as refusal:
            await pipeline.decode(bytes, b"x", deadline=1e9)
    assert refusal.value.retry_after == 1
    assert await pipeline.decode(bytes, b"x", deadline=1e9) == b"x", "later there is one"
    pipeline.close()
    with pytest.raises(NotReady):
        await pipeline.decode(bytes, b"x", deadline=1e9)


@knows_threads
def test_lanes_run_where_a_sandbox_forbids_to_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: int) -> None:
        raise PermissionError("not permitted")

    monkeypatch.setattr(os, "setpriority", forbid)
    lower_priority()


@knows_threads
def test_who_gives_way_does_it_for_its_own_thread_only() -> None:
    found = []

    def compute() -> None:
        lower_priority()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert found == [ours + NICENESS]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == ours


@knows_threads
@pytest.mark.parametrize(("begun", "wanted"), [(5, 5 + NICENESS), (18, 19)])
def test_who_was_begun_by_nice_gives_way_from_there(begun: int, wanted: int) -> None:
    """Whoever is not root may not become less nice than that."""
    program = (
        "import os; from service.runtime.placement import lower_priority; lower_priority();"
        " print(os.getpriority(os.PRIO_PROCESS, 0))"
    )
    command = ["nice", "-n", str(begun), sys.executable, "-c", program]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(found) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + wanted)
