"""Who is let in, and how the service learns how long its work takes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

import service.admission
from service.admission import ALWAYS, Admission, Pace
from service.errors import DeadlineExceeded, QueueFull

pytestmark = pytest.mark.anyio
NEVER = float("inf")


def pace(seconds: float) -> Pace:
    learned = Pace()
    learned.seconds = seconds
    return learned


@dataclass
class Clock:
    """Time that passes when the test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(service.admission, "perf_counter", clock)
    return clock


async def test_a_few_are_let_in_however_slow_they_are_thought_to_be() -> None:
    admission, slow = Admission(1.0), pace(100.0)
    with ExitStack() as inside:
        for _ in range(ALWAYS):
            inside.enter_context(admission.enter([slow], 1, NEVER))
        with pytest.raises(QueueFull):
            admission.check(NEVER)


async def test_who_would_wait_too_long_is_told_when_to_come_back() -> None:
    admission = Admission(1.0)
    with admission.enter([pace(0.1)], 20, NEVER):
        with pytest.raises(QueueFull, match=r"2\.0 s of work wait already; at most 1 s") as refusal:
            admission.check(NEVER)
        assert refusal.value.retry_after == pytest.approx(2.0)
    admission.check(NEVER)


async def test_work_of_several_models_adds_up() -> None:
    admission = Admission(1.0)
    with admission.enter([pace(0.02), pace(0.03)], 20, NEVER):
        assert admission.wait == pytest.approx(1.0)
        admission.check(NEVER)
        with admission.enter([pace(0.001)], 1, NEVER), pytest.raises(QueueFull):
            admission.check(NEVER)
    assert admission.wait == 0


async def test_who_cannot_be_served_before_its_deadline_is_refused_at_once() -> None:
    admission = Admission(10.0)
    now = asyncio.get_running_loop().time()
    with admission.enter([pace(0.1)], 50, NEVER):
        admission.check(now + 60)
        with pytest.raises(DeadlineExceeded, match=r"5\.0 s of work are to be done before"):
            admission.check(now + 2)


@asynccontextmanager
async def busy(
    admission: Admission, learned: Pace, clock: Clock, true_pace: float, places: int
) -> AsyncIterator[None]:
    """So many callers, served in turn, each of whom asks again at once."""
    queue = [admission.enter([learned], 1, NEVER) for _ in range(places)]
    for place in queue:
        place.__enter__()
    for _ in range(places * 30):
        clock.now += true_pace
        queue.pop(0).__exit__(None, None, None)
        queue.append(admission.enter([learned], 1, NEVER))
        queue[-1].__enter__()
    yield
    for place in queue:
        place.__exit__(None, None, None)


@pytest.mark.parametrize("believed", [0.0, 0.002, 0.01, 0.08])
async def test_the_pace_is_learned_from_how_long_requests_take(
    clock: Clock, believed: float
) -> None:
    learned, admission = pace(believed), Admission(1e9)
    async with busy(admission, learned, clock, true_pace=0.01, places=40):
        assert learned.seconds == pytest.approx(0.01, rel=0.05)
        assert admission.wait == pytest.approx(40 * 0.01, rel=0.1)


def visit(admission: Admission, learned: Pace, clock: Clock, took: float, end: Exception) -> None:
    """A request that ends so after so many seconds."""
    with admission.enter([learned], 1, NEVER):
        clock.now += took
        raise end


async def test_who_gave_up_teaches_only_that_it_took_no_less(clock: Clock) -> None:
    learned, admission = pace(0.1), Admission(1.0)
    with pytest.raises(DeadlineExceeded):
        visit(admission, learned, clock, 0.05, DeadlineExceeded("too late"))
    assert learned.seconds == 0.1
    with pytest.raises(DeadlineExceeded):
        visit(admission, learned, clock, 0.5, DeadlineExceeded("too late"))
    assert learned.seconds > 0.1


async def test_a_request_that_fails_teaches_nothing(clock: Clock) -> None:
    learned, admission = pace(0.1), Admission(1.0)
    with pytest.raises(ValueError, match="bad"):
        visit(admission, learned, clock, 3.0, ValueError("bad"))
    assert learned.seconds == 0.1
    assert admission.wait == 0
