"""Cores: who computes where."""

import os
import sys
import threading

import pytest

from service.cores import NICENESS, Cores, give_way
from service.limits import affinity

linux = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system cannot keep a thread to a core"
)


def test_a_batch_gets_the_core_with_the_fewest_others() -> None:
    cores = Cores([4, 7])
    with cores.computing() as (none, first):
        with cores.computing() as (one, second), cores.computing() as (two, third):
            assert (none, one, two) == (0, 1, 2)
            assert (first, second, third) == (4, 7, 4)
        with cores.computing() as (one, again):
            assert (one, again) == (1, 7)


def test_a_lane_gets_its_last_core_again_where_that_is_as_free_as_another() -> None:
    cores = Cores([4, 7])
    with cores.computing(last=7) as (_, core):
        assert core == 7
        with cores.computing(last=7) as (_, other):
            assert other == 4


def test_a_batch_that_fails_leaves_its_core() -> None:
    cores = Cores([4])
    with pytest.raises(RuntimeError, match="broken"), cores.computing():
        raise RuntimeError("broken")
    with cores.computing() as (others, _):
        assert others == 0


@linux
def test_a_thread_keeps_to_a_core_until_it_is_let_go() -> None:
    own = affinity()
    core = max(own)
    seen = []

    def work() -> None:
        cores = Cores(own)
        for wanted in (core, None, 10_000):  # there is no such core, and nothing happens
            cores.keep_to(wanted)
            seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{core}, own, own]
    assert affinity() == own


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows of threads here")
def test_who_gives_way_does_it_for_its_own_thread_only() -> None:
    found = []

    def compute() -> None:
        give_way()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert found == [NICENESS]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == ours
