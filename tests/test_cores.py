"""Cores: who computes where."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from service.errors import NotReady
from service.inference.pipeline import Pipeline
from service.limits import affinity
from service.runtime.placement import (
    CORES,
    NICENESS,
    QUIET_SECONDS,
    Cores,
    answer_here,
    lower_priority,
)
from tests.marks import has_two_cores, keeps_to_cores, knows_threads


def test_a_batch_gets_the_core_with_the_fewest_others() -> None:
    cores = Cores([4, 7])
    with cores.computing() as (_, first):
        with cores.computing() as (_, second), cores.computing() as (_, third):
            assert (first, second, third) == (4, 7, 4)
        with cores.computing() as (_, again):
            assert again == 7


def test_a_lane_gets_its_last_core_again_where_that_is_as_free_as_another() -> None:
    cores = Cores([4, 7])
    with cores.computing(last=7) as (_, core):
        assert core == 7
        with cores.computing(last=7) as (_, other):
            assert other == 4


def test_a_batch_that_is_alone_has_the_core_that_its_run_leaves_to_it() -> None:
    cores = Cores([9, 4, 7])
    with cores.computing(last=9, exclusive_core=4) as (exclusive, core):
        assert (exclusive, core) == (True, 4)
        with cores.computing(last=4, exclusive_core=4) as (exclusive, core):
            assert (exclusive, core) == (False, 7), "4 is taken"


def test_a_batch_that_fails_leaves_its_core() -> None:
    cores = Cores([4])
    with pytest.raises(RuntimeError, match="broken"), cores.computing():
        raise RuntimeError("broken")
    with cores.computing() as (exclusive, _):
        assert exclusive


def test_a_batch_is_alone_after_a_while_without_company(monkeypatch: pytest.MonkeyPatch) -> None:
    cores, now = Cores([4, 7]), 1000.0
    monkeypatch.setattr("service.runtime.placement.perf_counter", lambda: now)

    def is_exclusive(*, more: bool = False) -> bool:
        with cores.computing(more=more) as (exclusive, _):
            return exclusive

    assert is_exclusive()
    assert is_exclusive()
    with cores.computing():
        assert not is_exclusive()
        now += 1  # and both are there until now
        with cores.computing():
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
        cores = Cores(own)
        for wanted in (core, None, 10_000):  # there is no such core, and nothing happens
            cores.pin(wanted)
            seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{core}, own, own]
    assert affinity() == own


@contextmanager
def waiting_thread() -> Iterator[int]:
    """The kernel's number of a thread that does nothing."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    assert thread.native_id
    try:
        yield thread.native_id
    finally:
        done.set()
        thread.join()


@has_two_cores
@keeps_to_cores
def test_who_answers_keeps_to_a_core_behind_a_batch_that_was_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("service.runtime.placement.perf_counter", lambda: now)
    own = affinity()
    first = min(own)
    cores = Cores(own)
    with waiting_thread() as answering, waiting_thread() as successor:

        def answered_on() -> set[int]:
            return os.sched_getaffinity(answering)

        def computing(exclusive_core: int | None = first) -> AbstractContextManager[object]:
            return cores.computing(exclusive_core=exclusive_core, followed=True)

        cores.answered_by(answering)
        with computing():
            assert answered_on() == own
        assert answered_on() == {first}
        with computing():
            assert answered_on() == own, "whoever comes now is read wherever there is time"
            with computing():
                pass
            assert answered_on() == own
        assert answered_on() == {first}
        with computing():  # had company just now
            pass
        assert answered_on() == own
        now += 1
        with computing(exclusive_core=None):  # a run that leaves no core to its lane
            pass
        assert answered_on() == own
        with cores.computing(exclusive_core=first):
            pass
        assert answered_on() == own
        with computing():
            pass
        cores.answered_by(successor)
        assert answered_on() == own
        with computing():
            pass
        assert (answered_on(), os.sched_getaffinity(successor)) == (own, {first})


@has_two_cores
@keeps_to_cores
@pytest.mark.anyio
async def test_threads_that_an_event_loop_makes_do_not_keep_to_its_core() -> None:
    own = affinity()
    pipeline = Pipeline(decoders=1)
    answer_here()
    CORES.pin(min(own))
    try:
        assert await asyncio.to_thread(os.sched_getaffinity, 0) == own
        found = await pipeline.decode(lambda _: os.sched_getaffinity(0), b"", deadline=1e9)
        assert found == own
    finally:
        CORES.pin(None)
        CORES.answered_by(None)
        pipeline.close()


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
