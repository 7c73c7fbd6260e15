"""The batcher's promises."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from service.errors import (
    BatchFailed,
    CallerError,
    DeadlineExceeded,
    NotReady,
    QueueFull,
    Unreadable,
)
from service.inference.batch import BatchLimits
from service.inference.batching import Batcher
from service.limits import affinity
from service.metrics import DROPPED, ModelSeries, samples
from service.model.speed import Speed
from service.model.types import Item, Result, Sample
from service.runtime.placement import NICENESS
from tests.marks import has_two_cores, keeps_to_cores, knows_threads

pytestmark = pytest.mark.anyio


class Doubler:
    """A model that doubles numbers, waits for leave, and writes down its batches."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.exclusive: list[bool] = []
        self.cores: list[set[int]] = []  # on which each batch may run
        self.started = threading.Semaphore(0)
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, items: Sequence[Item], exclusive: bool) -> list[Result]:
        self.exclusive.append(exclusive)
        self.cores.append(affinity())
        self.thread = threading.get_native_id()
        samples = [item for item in items if isinstance(item, Sample)]
        self.batches.append([int(sample.data) for sample in samples])
        self.started.release()
        assert self.go.wait(10)
        if any(sample.data < 0 for sample in samples):
            raise ValueError("no negative numbers")
        return [Result({"sum": sample.data * 2}) for sample in samples]

    async def has_started(self) -> None:
        """Until one batch more has begun to run."""
        assert await asyncio.to_thread(self.started.acquire, timeout=10)


def batcher(
    model: Doubler,
    *,
    lanes: int = 1,
    pinned: bool = False,
    exclusive_core: int | None = None,
    shared: bool = False,
    **limits: Any,
) -> Batcher:
    least, series = BatchLimits(**{"items": 8, "padding": 10, **limits}), ModelSeries("doubler", 1)
    return Batcher(
        model, least, lanes, series, pinned=pinned, exclusive_core=exclusive_core, shared=shared
    )


@pytest.fixture
def no_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is alone as soon as nothing else is there."""
    monkeypatch.setattr("service.runtime.placement.QUIET_SECONDS", 0)


def number(value: int, cost: int = 1) -> Sample:
    return Sample(np.array(value), cost)


def total(reply: Result) -> int:
    return int(reply.row["sum"])


async def wait_for_queue(batcher: Batcher, callers: int) -> None:
    """Until that many callers wait, each having had its turn on the event loop."""
    while len(batcher._waiting) < callers:  # noqa: ASYNC110  every turn is one step of a caller
        await asyncio.sleep(0)


async def submit_behind_a_held_batch(
    batcher: Batcher, model: Doubler, samples: Sequence[Sample]
) -> list[asyncio.Task[Result]]:
    """Occupy the only lane with the number 0, then queue these."""
    first = asyncio.create_task(batcher.submit(number(0)))
    await model.has_started()
    callers = [asyncio.create_task(batcher.submit(sample)) for sample in samples]
    await wait_for_queue(batcher, len(samples))
    return [first, *callers]


async def test_every_caller_gets_its_own_reply() -> None:
    async with batcher(Doubler(), lanes=2) as doubler:
        replies = await asyncio.gather(*(doubler.submit(number(n)) for n in range(50)))
    assert [total(reply) for reply in replies] == [n * 2 for n in range(50)]


async def test_what_waits_while_the_lane_is_busy_becomes_one_batch() -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        callers = await submit_behind_a_held_batch(doubler, model, [number(n) for n in range(1, 6)])
        model.go.set()
        await asyncio.gather(*callers)
    assert model.batches == [[0], [1, 2, 3, 4, 5]]


async def test_two_lanes_run_two_batches_at_once() -> None:
    model = Doubler(held=True)
    async with batcher(model, lanes=2, items=1) as doubler:
        callers = [asyncio.create_task(doubler.submit(number(n))) for n in (1, 2, 3)]
        await model.has_started()
        await model.has_started()
        assert sorted(model.batches) == [[1], [2]]
        model.go.set()
        await asyncio.gather(*callers)


@pytest.mark.usefixtures("no_quiet")
async def test_a_batch_is_told_whether_it_has_the_machine_to_itself() -> None:
    model, other = Doubler(held=True), Doubler()
    async with batcher(model) as doubler, batcher(other) as beside:
        callers = await submit_behind_a_held_batch(doubler, model, [number(1)])
        await beside.submit(number(3))
        assert other.exclusive == [False]
        model.go.set()
        await asyncio.gather(*callers)
        assert model.exclusive == [True, True]
        await beside.submit(number(3))
    assert other.exclusive == [False, True]


@pytest.mark.usefixtures("no_quiet")
async def test_a_batch_of_several_is_not_alone() -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        callers = await submit_behind_a_held_batch(doubler, model, [number(1), number(2)])
        model.go.set()
        await asyncio.gather(*callers)
    assert model.exclusive == [True, False]


async def test_who_had_company_a_while_ago_is_not_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.runtime.placement.QUIET_SECONDS", 3600)
    model = Doubler(held=True)
    async with batcher(model, lanes=2, items=1) as doubler:
        callers = [asyncio.create_task(doubler.submit(number(n))) for n in (1, 2)]
        await model.has_started()
        await model.has_started()
        model.go.set()
        await asyncio.gather(*callers)
        await doubler.submit(number(3))
    assert model.exclusive[1:] == [False, False]


@pytest.mark.parametrize(("shared", "sizes"), [(True, [2, 2, 2]), (False, [6])])
async def test_lanes_that_are_idle_get_their_share(shared: bool, sizes: list[int]) -> None:
    model = Doubler(held=True)
    async with batcher(model, lanes=3, shared=shared) as doubler:
        with doubler._changed:  # until all wait, no lane takes any
            callers = [asyncio.create_task(doubler.submit(number(n))) for n in range(6)]
            await asyncio.sleep(0)
        for _ in sizes:
            await model.has_started()
        model.go.set()
        await asyncio.gather(*callers)
    assert [len(batch) for batch in model.batches] == sizes


@pytest.mark.usefixtures("no_quiet")
async def test_a_batch_behind_which_others_wait_is_not_alone() -> None:
    model = Doubler(held=True)
    async with batcher(model, items=1) as doubler:
        callers = await submit_behind_a_held_batch(doubler, model, [number(1), number(2)])
        model.go.set()
        await asyncio.gather(*callers)
    assert model.exclusive == [True, False, True]


async def test_a_batch_holds_no_more_items_than_it_may() -> None:
    model = Doubler(held=True)
    async with batcher(model, items=4) as doubler:
        callers = await submit_behind_a_held_batch(
            doubler, model, [number(n) for n in range(1, 11)]
        )
        model.go.set()
        await asyncio.gather(*callers)
    assert [len(batch) for batch in model.batches] == [1, 4, 4, 2]


async def test_a_batch_costs_no_more_than_it_may_padding_counted() -> None:
    model = Doubler(held=True)
    async with batcher(model, cost=30) as doubler:
        costs = [10, 10, 10, 9, 10]
        callers = await submit_behind_a_held_batch(
            doubler, model, [number(n, cost) for n, cost in enumerate(costs, 1)]
        )
        model.go.set()
        await asyncio.gather(*callers)
    assert model.batches == [[0], [1, 2, 3], [4, 5]]


@knows_threads
async def test_lanes_give_way_to_those_that_answer() -> None:
    model = Doubler()
    async with batcher(model) as doubler:
        await doubler.submit(number(1))
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, model.thread) == ours + NICENESS


@has_two_cores
@keeps_to_cores
@pytest.mark.usefixtures("no_quiet")
@pytest.mark.parametrize("exclusive_core", [None, min(affinity()), max(affinity())])
@pytest.mark.parametrize("pinned", [True, False])
async def test_lanes_keep_to_a_core_each_while_there_are_several_batches(
    pinned: bool, exclusive_core: int | None
) -> None:
    model = Doubler(held=True)
    async with batcher(
        model, lanes=2, pinned=pinned, exclusive_core=exclusive_core, items=1
    ) as doubler:
        callers = [asyncio.create_task(doubler.submit(number(0)))]
        await model.has_started()  # alone
        callers += [asyncio.create_task(doubler.submit(number(n))) for n in (1, 2, 3)]
        await model.has_started()
        model.go.set()
        await asyncio.gather(*callers)
        await doubler.submit(number(4))  # alone again
    assert (
        model.cores[0]
        == model.cores[-1]
        == (affinity() if exclusive_core is None else {exclusive_core})
    )
    assert {len(cores) for cores in model.cores[1:3]} == ({1} if pinned else {len(affinity())})
    if pinned and exclusive_core is not None:
        assert exclusive_core not in model.cores[1], "the lone batch is there"


async def test_a_sample_beyond_the_budget_runs_alone() -> None:
    model = Doubler()
    async with batcher(model, cost=30) as doubler:
        assert total(await doubler.submit(number(4, cost=99))) == 8


async def test_like_lengths_run_together_and_the_oldest_is_never_passed_over() -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        lengths = {1: 100, 2: 5, 3: 95, 4: 5, 5: 5, 6: 100}
        callers = await submit_behind_a_held_batch(
            doubler, model, [number(n, length) for n, length in lengths.items()]
        )
        model.go.set()
        await asyncio.gather(*callers)
    assert model.batches == [[0], [1, 6, 3], [2, 4, 5]]


async def test_what_is_padded_by_more_than_a_run_costs_runs_for_itself() -> None:
    model = Doubler(held=True)
    async with batcher(model, padding=5) as doubler:
        lengths = {1: 10, 2: 8, 3: 7, 4: 7, 5: 8}  # two, and three more, of padding
        callers = await submit_behind_a_held_batch(
            doubler, model, [number(n, length) for n, length in lengths.items()]
        )
        model.go.set()
        await asyncio.gather(*callers)
    assert model.batches == [[0], [1, 2, 5], [3, 4]]


async def test_a_batch_takes_no_longer_than_it_may_as_far_as_is_known() -> None:
    model = Doubler(held=True)
    async with batcher(model, seconds=0.0) as doubler:
        callers = await submit_behind_a_held_batch(doubler, model, [number(n) for n in (1, 2)])
        model.go.set()
        await asyncio.gather(*callers)
    assert model.batches == [[0], [1], [2]]


def released() -> Counter[str]:
    """Reason -> batches until now."""
    batches = (s for s in samples() if s.name == "sensorium_batches_total")
    return Counter(
        {s.labels["reason"]: int(s.value) for s in batches if s.labels["model"] == "doubler"}
    )


async def test_why_a_batch_was_released_is_counted() -> None:
    before = released()
    model = Doubler(held=True)
    async with batcher(model, items=2, cost=150) as doubler:
        lengths = [10, 10, 10, 60, 100, 100]
        callers = await submit_behind_a_held_batch(
            doubler, model, [number(n, length) for n, length in enumerate(lengths, 1)]
        )
        model.go.set()
        await asyncio.gather(*callers)
    assert model.batches == [[0], [1, 2], [3], [4], [5], [6]]
    assert released() - before == {"idle": 2, "full": 1, "unlike": 1, "cost": 2}


async def test_a_caller_who_leaves_does_not_disturb_the_others() -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        callers = await submit_behind_a_held_batch(doubler, model, [number(n) for n in (1, 2, 3)])
        callers[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await callers[2]
        model.go.set()
        replies = await asyncio.gather(callers[0], callers[1], callers[3])
    assert [total(reply) for reply in replies] == [0, 2, 6]
    assert model.batches == [[0], [1, 3]], "who has left costs nothing"


async def test_a_caller_may_leave_while_its_batch_runs() -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        callers = await submit_behind_a_held_batch(doubler, model, [number(1)])
        callers[0].cancel()
        model.go.set()
        assert total(await callers[1]) == 2


async def test_of_eight_only_the_failing_item_fails() -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        callers = await submit_behind_a_held_batch(
            doubler, model, [number(n) for n in (1, 2, 3, 4, 5, -6, 7, 8)]
        )
        model.go.set()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
    good = [total(outcome) for outcome in outcomes if isinstance(outcome, Result)]
    assert good == [0, 2, 4, 6, 8, 10, 14, 16]
    assert isinstance(outcomes[6], BatchFailed)
    assert "no negative numbers" in str(outcomes[6])


async def test_a_model_that_fails_goes_on_serving() -> None:
    async with batcher(Doubler()) as doubler:
        with pytest.raises(BatchFailed):
            await doubler.submit(number(-1))
        assert total(await doubler.submit(number(1))) == 2


async def test_a_full_queue_says_so_at_once_and_when_to_come_back() -> None:
    model = Doubler(held=True)
    async with batcher(model, queue=3) as doubler:
        callers = await submit_behind_a_held_batch(doubler, model, [number(n) for n in (1, 2, 3)])
        with pytest.raises(QueueFull) as refusal:
            await doubler.submit(number(4))
        assert refusal.value.retry_after is not None
        assert refusal.value.retry_after >= 0
        model.go.set()
        await asyncio.gather(*callers)
        assert total(await doubler.submit(number(4))) == 8


async def test_the_expected_wait_grows_with_the_queue() -> None:
    model = Doubler()
    async with batcher(model, items=1) as doubler:
        await doubler.submit(number(1))
        assert doubler.expected_wait() == 0
        model.go.clear()
        await model.has_started()
        callers = await submit_behind_a_held_batch(doubler, model, [number(1)])
        short = doubler.expected_wait()
        callers += [asyncio.create_task(doubler.submit(number(n))) for n in range(9)]
        await wait_for_queue(doubler, 10)
        assert doubler.expected_wait() == pytest.approx(10 * short)
        assert short > 0
        model.go.set()
        await asyncio.gather(*callers)


async def test_a_deadline_that_passes_in_the_queue_costs_no_work() -> None:
    dropped = DROPPED.labels("doubler", "1", "expired")
    before = dropped._value.get()
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        first = asyncio.create_task(doubler.submit(number(0)))
        await model.has_started()
        soon = asyncio.get_running_loop().time() + 0.02
        with pytest.raises(DeadlineExceeded):
            await doubler.submit(number(1), deadline=soon)
        model.go.set()
        await first
    assert model.batches == [[0]]
    assert dropped._value.get() == before + 1


async def test_a_deadline_holds_while_the_model_runs() -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        soon = asyncio.get_running_loop().time() + 0.02
        with pytest.raises(DeadlineExceeded):
            await doubler.submit(number(1), deadline=soon)
        model.go.set()


async def test_draining_finishes_what_waits_and_takes_no_more() -> None:
    model = Doubler(held=True)
    doubler = batcher(model)
    callers = await submit_behind_a_held_batch(doubler, model, [number(n) for n in (1, 2)])
    draining = asyncio.create_task(doubler.drain(10))
    await asyncio.sleep(0)
    with pytest.raises(NotReady):
        await doubler.submit(number(3))
    model.go.set()
    await draining
    assert [total(caller.result()) for caller in callers] == [0, 2, 4]


async def test_draining_does_not_wait_longer_than_it_may() -> None:
    model = Doubler(held=True)
    doubler = batcher(model)
    callers = await submit_behind_a_held_batch(doubler, model, [number(1)])
    await doubler.drain(0.02)
    with pytest.raises(NotReady):
        await callers[1]
    model.go.set()
    assert total(await callers[0]) == 0


async def test_a_reply_says_where_its_time_went() -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        callers = await submit_behind_a_held_batch(doubler, model, [number(1)])
        await asyncio.sleep(0.02)
        model.go.set()
        first, second = await asyncio.gather(*callers)
    assert first.timings.queue < first.timings.infer
    assert first.timings.infer >= 0.02
    assert second.timings.queue >= 0.02


async def test_a_lane_that_does_not_come_back_is_replaced_and_its_callers_told() -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        callers = await submit_behind_a_held_batch(doubler, model, [number(1)])
        assert not doubler.replace_stuck(60)
        assert len(doubler.replace_stuck(0)) == 1
        with pytest.raises(BatchFailed, match="no answer within 0 s"):
            await callers[0]
        await model.has_started()
        model.go.set()
        assert total(await callers[1]) == 2
        while doubler.replace_stuck(60):  # noqa: ASYNC110  until the old thread has ended
            await asyncio.sleep(0.001)


class Panic(BaseException):
    """As libraries written in Rust raise it: no Exception."""


async def test_a_lane_that_fails_tells_its_callers_why_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def compute(items: Sequence[Item], _: bool) -> list[Result]:
        if items[0].cost == 13:
            raise Panic("not my number")
        return [Result({}) for _ in items]

    async with Batcher(compute, BatchLimits(items=8), 1, ModelSeries("doubler", 1)) as doubler:
        with pytest.raises(BatchFailed, match=r"Panic\('not my number'\)"):
            await doubler.submit(number(1, cost=13))
        assert await doubler.submit(number(1))
        assert not doubler.replace_stuck(60)
    assert "doubler version 1: a lane failed" in caplog.text


def test_a_lane_that_outlives_its_event_loop_ends_without_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Doubler(held=True)

    async def leave() -> Batcher:
        doubler = batcher(model)
        await submit_behind_a_held_batch(doubler, model, [])
        return doubler

    doubler = asyncio.run(leave())
    doubler.close()
    model.go.set()
    [lane] = doubler._lanes
    lane.thread.join(10)
    assert not lane.thread.is_alive()
    assert not caplog.records


async def test_a_queue_that_cannot_be_sorted_does_not_stop_the_lane() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ArithmeticError("odd")

        def __hash__(self) -> int:
            return 0

    model = Doubler(held=True)
    async with batcher(model) as doubler:
        odd = [Sample(np.array(n), key=Odd()) for n in (1, 2)]
        callers = await submit_behind_a_held_batch(doubler, model, odd)
        model.go.set()
        first, *others = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(first, Result)
        assert [str(other) for other in others] == ["the lane failed: ArithmeticError('odd')"] * 2
        assert total(await doubler.submit(number(3))) == 6


async def test_an_item_that_costs_nothing_is_computed() -> None:
    async with batcher(Doubler()) as doubler:
        assert total(await doubler.submit(number(1, cost=0))) == 2
        assert doubler.expected_wait() == 0


@pytest.mark.parametrize("given", [0, 1, 3])
async def test_a_model_that_gives_another_number_of_answers_has_failed(given: int) -> None:
    def compute(items: Sequence[Item], _: bool) -> list[Result]:
        return [Result({})] * (given if len(items) == 2 else len(items))

    async with Batcher(compute, BatchLimits(items=8), 1, ModelSeries("doubler", 1)) as doubler:
        with doubler._changed:
            callers = [asyncio.create_task(doubler.submit(number(n))) for n in (1, 2)]
            await asyncio.sleep(0)
        done, _ = await asyncio.wait(callers, timeout=10)
        assert len(done) == 2, "each by itself"
        assert len(await asyncio.gather(*callers)) == 2

    async with Batcher(lambda *_: [], BatchLimits(items=8), 1, ModelSeries("doubler", 1)) as none:
        async with asyncio.timeout(10):
            with pytest.raises(BatchFailed, match="0 answers to 1 items"):
                await none.submit(number(1))


@contextmanager
def no_more_threads() -> Iterator[None]:
    """As in a container whose limit of processes is reached."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        yield


async def test_a_lane_is_replaced_as_soon_as_there_is_a_thread_for_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        callers = await submit_behind_a_held_batch(doubler, model, [number(1)])
        with no_more_threads():
            for _ in range(2):
                assert len(doubler.replace_stuck(0)) == 1
        with pytest.raises(BatchFailed, match="no answer within 0 s"):
            await callers[0]
        assert "doubler version 1 cannot start a lane: can't start new thread" in caplog.text
        model.go.set()
        while doubler.replace_stuck(60):  # noqa: ASYNC110  until the old thread has ended
            await asyncio.sleep(0.001)
        assert total(await callers[1]) == 2


async def test_an_item_is_refused_while_no_thread_can_be_started() -> None:
    async with batcher(Doubler()) as doubler:
        with no_more_threads(), pytest.raises(NotReady, match="no thread can be started"):
            await doubler.submit(number(1))
        assert total(await doubler.submit(number(2))) == 4


async def test_an_idle_model_has_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.inference.batching.IDLE_SECONDS", 0.001)
    async with batcher(Doubler(), lanes=2) as doubler, asyncio.timeout(10):
        assert not doubler.threads_at_work()
        for value in (1, 2):  # and it answers again after its lane has ended
            assert total(await doubler.submit(number(value))) == 2 * value
            while doubler.threads_at_work():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            assert not doubler.replace_stuck(60)


async def test_an_instant_model_computes_where_it_is_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Doubler()
    least, series = BatchLimits(items=8), ModelSeries("doubler", 1)
    async with Batcher(model, least, 1, series, instant=True) as doubler:
        assert total(await doubler.submit(number(1))) == 2
        assert model.thread == threading.get_native_id()
        with pytest.raises(BatchFailed, match="no negative numbers"):
            await doubler.submit(number(-1))
        assert "doubler version 1 failed on a batch: no negative numbers" in caplog.text
        assert not doubler.threads_at_work()
    with pytest.raises(NotReady):
        await doubler.submit(number(1))


async def test_an_instant_model_refuses_what_it_cannot_decode() -> None:
    def compute(*_: object) -> list[Result | CallerError]:
        return [Unreadable("damaged")]

    least, series = BatchLimits(items=8), ModelSeries("doubler", 1)
    async with Batcher(compute, least, 1, series, instant=True) as doubler:
        with pytest.raises(Unreadable, match="damaged"):
            await doubler.submit(number(1))


async def test_a_single_client_needs_one_lane() -> None:
    async with batcher(Doubler(), lanes=2) as doubler:
        for value in (1, 2, 3):
            await doubler.submit(number(value))
        assert len(doubler.threads_at_work()) == 1


async def test_draining_needs_no_thread() -> None:
    doubler = batcher(Doubler())
    assert total(await doubler.submit(number(1))) == 2
    with no_more_threads():
        await doubler.drain(10)
    assert not doubler.threads_at_work()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_lane_that_has_died_is_replaced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def die() -> None:
        raise PermissionError("as a system call may")

    with monkeypatch.context() as patch:
        patch.setattr("service.inference.batching.lower_priority", die)
        doubler = batcher(Doubler())
        caller = asyncio.create_task(doubler.submit(number(1)))
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while doubler.threads_at_work():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    async with doubler:
        assert not doubler.replace_stuck(60)
        assert total(await caller) == 2
    assert "doubler version 1: a lane has died" in caplog.text


async def test_a_batch_of_a_slow_model_is_not_stuck_before_it_takes_longer_than_expected() -> None:
    model = Doubler(held=True)
    least, series = BatchLimits(items=8), ModelSeries("doubler", 1)
    async with Batcher(model, least, 1, series, speed=Speed(unit=10.0, item=10.0)) as doubler:
        caller = asyncio.create_task(doubler.submit(number(1)))
        await model.has_started()
        assert doubler.patience(1, 8) == 50
        assert doubler.patience(1, 60) == 60
        assert not doubler.replace_stuck(0)
        model.go.set()
        assert total(await caller) == 2


async def test_what_a_stop_of_the_process_took_is_not_the_lanes_fault() -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        caller = asyncio.create_task(doubler.submit(number(1)))
        await model.has_started()
        doubler.excuse(60)
        assert not doubler.replace_stuck(0)
        model.go.set()
        assert total(await caller) == 2


async def test_each_half_of_a_batch_that_failed_has_the_time_of_a_run_of_its_own() -> None:
    began: list[float] = []

    def compute(*_: object) -> list[Result]:
        began.append(doubler._lanes[0].began)
        raise ValueError("no")

    doubler = Batcher(compute, BatchLimits(items=8), 1, ModelSeries("doubler", 1))
    async with doubler:
        with doubler._changed:
            callers = [asyncio.create_task(doubler.submit(number(n))) for n in (1, 2)]
            await asyncio.sleep(0)
        await asyncio.gather(*callers, return_exceptions=True)
    assert len(began) == 3
    assert began == sorted(set(began))


async def test_a_batch_that_fails_is_not_run_again_for_callers_who_have_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Doubler(held=True)
    async with batcher(model) as doubler:
        with doubler._changed:
            callers = [asyncio.create_task(doubler.submit(number(-n))) for n in (1, 2)]
            await asyncio.sleep(0)
        await model.has_started()
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        model.go.set()
    assert model.batches == [[-1, -2]]
    assert not caplog.records


async def test_an_error_of_a_model_is_logged_once_with_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def compute(items: Sequence[Item], _: bool) -> list[Result]:
        raise ValueError(f"row {items[0].cost} is broken")

    async with Batcher(compute, BatchLimits(items=8), 1, ModelSeries("doubler", 1)) as doubler:
        callers = [asyncio.create_task(doubler.submit(number(n, cost=n))) for n in range(1, 9)]
        await asyncio.gather(*callers, return_exceptions=True)
    assert [record.getMessage()[:38] for record in caplog.records] == [
        "doubler version 1 failed on a batch: r"
    ]


async def test_what_cannot_be_decoded_does_not_pass_for_speed() -> None:
    def compute(items: Sequence[Item], _: bool) -> list[Result | CallerError]:
        return [Unreadable("damaged") for _ in items]

    speed = Speed(unit=10.0)
    least, series = BatchLimits(items=8), ModelSeries("doubler", 1)
    async with Batcher(compute, least, 1, series, speed=speed) as doubler:
        for _ in range(50):
            with pytest.raises(Unreadable):
                await doubler.submit(number(1))
        assert doubler._rate.seconds == 10
