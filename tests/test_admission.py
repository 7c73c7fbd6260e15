"""Who is let in, and how the service learns how long its work takes."""

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

import service.inference.admission
from service.errors import DeadlineExceeded, QueueFull, Unreadable
from service.inference.admission import ALWAYS, MEMORY, Admission, check, enter
from service.metrics import ModelSeries

pytestmark = pytest.mark.anyio
NEVER = float("inf")


def admission(pace: float, most: float = 1.0) -> Admission:
    """One that has learned this pace."""
    known = Admission(most, ModelSeries("admitted", 1))
    known._busy = pace * MEMORY
    return known


@pytest.mark.parametrize(
    ("pace", "lanes", "most", "let_in"),
    [
        (0.04, 2, 0.75, 19),
        (0.1, 2, 0.75, 8),
        (0.5, 2, 0.75, 2),  # a second on each of two lanes
        (1.0, 1, 0.75, 1),
        (10.0, 2, 0.75, 2),
        (10.0, 1, 0.75, 1),
        (10.0, 1, 95.0, 10),
    ],
)
async def test_of_a_slow_model_no_more_are_let_in_than_it_does_in_time(
    pace: float, lanes: int, most: float, let_in: int
) -> None:
    """From the first request on: an item has this pace by what was measured at load."""
    model = Admission(most, ModelSeries("admitted", 1), pace=pace, lanes=lanes)
    with ExitStack() as places:
        for _ in range(let_in):
            places.enter_context(enter([model], 1, NEVER))
        with pytest.raises(QueueFull):
            model.check(NEVER)


@dataclass
class Clock:
    """Time that passes when the test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(service.inference.admission, "perf_counter", clock)
    return clock


async def test_a_few_are_let_in_however_slow_they_are_thought_to_be() -> None:
    slow = admission(100.0)
    with ExitStack() as inside:
        for _ in range(ALWAYS):
            inside.enter_context(enter([slow], 1, NEVER))
        with pytest.raises(QueueFull):
            slow.check(NEVER)


async def test_who_would_wait_too_long_is_told_when_to_come_back() -> None:
    model = admission(0.1)
    with enter([model], 20, NEVER):
        with pytest.raises(QueueFull, match=r"2\.0 s of work wait already; at most 1 s") as refusal:
            model.check(NEVER)
        assert refusal.value.retry_after == pytest.approx(2.0)
    model.check(NEVER)
    assert model.wait == 0


async def test_a_crowd_before_one_model_keeps_nobody_from_another() -> None:
    busy, free = admission(0.1), admission(0.1)
    with enter([busy], 20, NEVER):
        check([free], NEVER)
        with pytest.raises(QueueFull):
            check([free, busy], NEVER)
        with pytest.raises(QueueFull), enter([free, busy], 1, NEVER):
            pass
        assert free.wait == 0, "who is refused by one holds no place in the other"


async def test_who_cannot_be_served_before_its_deadline_is_refused_at_once() -> None:
    model = admission(0.1, most=10.0)
    now = asyncio.get_running_loop().time()
    with enter([model], 50, NEVER):
        model.check(now + 60)
        with pytest.raises(DeadlineExceeded, match=r"5\.0 s of work are to be done before"):
            model.check(now + 2)


async def test_who_would_wait_for_most_of_the_time_it_has_is_told_to_come_back() -> None:
    model = admission(0.1, most=10.0)
    now = asyncio.get_running_loop().time()
    with enter([model], 20, NEVER):
        model.check(now + 4.5)
        with pytest.raises(QueueFull, match=r"2\.0 s of work wait already, and 2\.\d s are left"):
            model.check(now + 2.9)


@pytest.mark.parametrize("believed", [0.0, 0.002, 0.01, 0.08])
async def test_the_pace_is_learned_from_what_is_done(clock: Clock, believed: float) -> None:
    """So many items are at work all the time, and are done in turn."""
    pace = 0.01
    model = admission(believed)
    for _ in range(40):
        model.__enter__()
    for _ in range(MEMORY * 6):
        clock.now += pace
        model.__exit__(None)
        model.__enter__()
    assert waits(model) == pytest.approx(pace, rel=0.05)


async def test_the_pace_is_learned_while_others_of_the_request_still_wait(clock: Clock) -> None:
    model = admission(0.01, most=1e9)
    with enter([model], 90, NEVER):
        for _ in range(90):
            model.__enter__()
        for _ in range(MEMORY):
            clock.now += 0.03  # three times slower than was known
            model.__exit__(None)
        assert model.wait > 90 * 0.02


@pytest.mark.parametrize(("pace", "most"), [(0.1, 10.0), (20.0, 100.0)])
async def test_an_hour_in_which_the_process_was_stopped_teaches_little(
    clock: Clock, pace: float, most: float
) -> None:
    model = Admission(1.0, ModelSeries("admitted", 1), pace=pace)
    with model:
        clock.now += 3600.0
    assert waits(model) <= pace + most / MEMORY


async def test_time_in_which_nothing_is_worked_at_teaches_nothing(clock: Clock) -> None:
    model = admission(0.1)
    with enter([model], 1, NEVER):  # of a request that has nothing for this model, say
        for _ in range(200):
            clock.now += 60.0
            with model:
                clock.now += 0.2
    assert waits(model) == pytest.approx(0.2, rel=0.05)


def waits(model: Admission) -> float:
    """How long one item keeps the others waiting."""
    with enter([model], 1, NEVER):
        return model.wait


def work(model: Admission, clock: Clock, took: float, end: BaseException) -> None:
    """An item that ends so after so many seconds."""
    with model:
        clock.now += took
        raise end


@pytest.mark.parametrize("end", [DeadlineExceeded("too late"), asyncio.CancelledError()])
async def test_who_gave_up_is_no_work_that_was_done(clock: Clock, end: BaseException) -> None:
    model = admission(0.1)
    with pytest.raises(type(end)):
        work(model, clock, 0.5, end)
    assert waits(model) > 0.1


async def test_what_fails_was_work_as_well(clock: Clock) -> None:
    model = admission(0.1)
    for _ in range(MEMORY * 6):
        with pytest.raises(Unreadable):
            work(model, clock, 0.001, Unreadable("damaged"))
    assert waits(model) == pytest.approx(0.001, rel=0.5)
