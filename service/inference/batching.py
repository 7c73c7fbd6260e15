"""Batching: what waits while the lanes are busy becomes the next batch; there is no timer."""

import asyncio
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from service.errors import (
    BatchFailed,
    CallerError,
    DeadlineExceeded,
    NotReady,
    QueueFull,
)
from service.metrics import ModelSeries
from service.model.speed import UNMEASURED, Speed
from service.model.types import Item, Result
from service.runtime.placement import BATCHES, lower_priority, pin

logger = logging.getLogger(__name__)

SLOWER = 5.0  # a run that takes so many times what is expected of it is stuck
MAX_CAUSES = 100  # different errors of one model that are logged
IDLE_SECONDS = 10.0  # after which a lane without work ends, so that an idle model has no thread

Outcome = Result | CallerError | BatchFailed

# Takes items of one key. One that cannot be decoded is its own error, and nothing to the others.
# Whether nothing else is to be computed now decides over the cores that it may take.
Compute = Callable[[Sequence[Item], bool], Sequence[Result | CallerError]]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One item on its way through the model, with the way back to its caller."""

    item: Item
    cost: int
    key: Hashable
    deadline: float  # on the event loop's clock, seconds
    arrived: float  # by perf_counter: uvloop's own clock only counts milliseconds
    reply: asyncio.Future[Result]

    def expire(self) -> None:
        """Called at the deadline."""
        _settle(self, DeadlineExceeded("the answer would have come after the deadline"))


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much one batch may hold, and how much may wait.

    Everything in a batch is padded to the costliest. What `padding` allows is what a run of its own
    would cost: with more, two batches are cheaper than one.
    """

    items: int
    cost: int | None = None  # items x the costliest
    padding: float = 0  # of the cost
    seconds: float = math.inf  # as measured of the last batches; one item is always taken
    queue: int = 512  # items


@dataclass(frozen=True, slots=True)
class Batch:
    jobs: list[Job]
    reason: str  # why it holds no more: full, shared, cost, time, unlike, idle
    waiting: int  # jobs that are left

    @property
    def cost(self) -> int:
        """Padding included."""
        return _padded(self.jobs)


@dataclass(slots=True, eq=False)
class Lane:
    """A thread that computes, and what it is at."""

    thread: threading.Thread
    jobs: Sequence[Job] = ()
    started: float = 0.0  # by perf_counter, of the batch that runs
    began: float = 0.0  # likewise, of its run: a batch that fails is run again by halves
    expected: float = 0.0  # seconds, of that run
    abandoned: bool = False  # it did not come back in time, and another has its place
    core: int | None = None  # that it is pinned to

    def patience(self, seconds: float) -> float:
        """How long its run may take: so many seconds, or in proportion where it is a long one."""
        return max(seconds, SLOWER * self.expected)

    def is_stuck(self, seconds: float) -> bool:
        return bool(self.jobs) and time.perf_counter() - self.began > self.patience(seconds)

    def pin(self, core: int | None) -> None:
        """Called by the lane itself; None: any core."""
        if core != self.core:
            pin(core)
            self.core = core


@dataclass(slots=True)
class _ServiceRate:
    """Seconds of a lane for a cost of one, smoothed over the last batches."""

    seconds: float = field(default=0.0)

    def observe(self, seconds: float, cost: int) -> None:
        latest = seconds / cost
        self.seconds = 0.8 * self.seconds + 0.2 * latest if self.seconds else latest


class Batcher:
    """One queue and a few lanes in front of one model.

    A lane is a thread that takes batch after batch and sleeps while nothing waits: the queue fills
    while the lanes are busy, so batches grow with the load and a lone caller never waits. A lane
    that has finished takes its next batch itself, without the event loop, which may be busy. Lanes
    start when items come, and end when none has come for a while.
    """

    def __init__(
        self,
        compute: Compute,
        limits: BatchLimits,
        lanes: int,
        series: ModelSeries,
        *,
        speed: Speed = UNMEASURED,
        exclusive_core: int | None = None,
        shared: bool = False,
        instant: bool = False,
    ) -> None:
        """Args:
        speed: of the model's runs, as measured when it was loaded.
        exclusive_core: of a lane with an exclusive run, whose other threads have the other cores.
        shared: a lane leaves their part to the lanes that are idle, as on a CPU each has its cores.
        instant: items are computed where they are submitted, one by one: there is no queue.
        """
        self._compute = compute
        self._limits = limits
        self._series = series
        self._exclusive_core = exclusive_core
        self._shared = shared
        self.instant = instant
        self._max_lanes = lanes
        self._changed = threading.Condition()  # guards what follows
        self._waiting: list[Job] = []
        self._running = 0
        self._speed = speed
        self._rate = _ServiceRate(speed.unit)
        self._closed = False
        self._causes: set[str] = set()  # of failed runs, that were logged
        self._lanes: list[Lane] = []
        self._abandoned: list[Lane] = []
        self.last_submitted = -math.inf  # monotonic seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain(math.inf)

    async def submit(self, item: Item, deadline: float = math.inf) -> Result:
        """Wait for this item's row. A caller who is cancelled gives its place up.

        Args:
            deadline: on the event loop's clock, in seconds.

        Raises:
            QueueFull: at once, with the seconds after which a place should be free.
            DeadlineExceeded: at the deadline.
            NotReady: the batcher is draining, or no thread can be started.
            CallerError: the item cannot be decoded.
            BatchFailed: the model cannot compute it.
        """
        self.last_submitted = time.monotonic()
        if self.instant:
            return self._compute_now(item)
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Result] = loop.create_future()
        job = Job(item, max(1, item.cost), item.key, deadline, time.perf_counter(), reply)
        with self._changed:
            if self._closed:
                raise NotReady("the model is being taken out of service")
            if len(self._waiting) >= self._limits.queue:
                raise QueueFull(f"{len(self._waiting)} items wait already", self.expected_wait())
            self._waiting.append(job)
            self._start_lanes()
            if not self._lanes:
                self._waiting.remove(job)
                raise NotReady("no thread can be started", retry_after=1.0)
            self._changed.notify()
        timer = None if math.isinf(deadline) else loop.call_at(deadline, job.expire)
        try:
            return await reply
        finally:
            if timer:
                timer.cancel()

    def _compute_now(self, item: Item) -> Result:
        """Compute one item in the calling thread."""
        if self._closed:
            raise NotReady("the model is being taken out of service")
        started = time.perf_counter()
        try:
            [outcome] = self._compute([item], False)
        except Exception as error:  # whatever the model raises is an answer to its callers
            self._series.batch_failed()
            self._log_once("failed on a batch", error)
            raise BatchFailed(f"the model failed on this input: {error}") from error
        if isinstance(outcome, CallerError):
            raise outcome
        outcome.timings.infer = time.perf_counter() - started
        self._series.ran(1, outcome.timings.infer)
        return outcome

    def expected_wait(self) -> float:
        """Seconds until what waits now should be done, from the measured service rate."""
        return sum(job.cost for job in self._waiting) * self._rate.seconds / self._max_lanes

    def patience(self, cost: int, seconds: float) -> float:
        """How long a run of this cost may take: so many seconds, or more where that is normal."""
        return max(seconds, SLOWER * self._expected(cost))

    def replace_stuck(self, seconds: float) -> list[Lane]:
        """Give up runs that take too long, each lane's place to a new one.

        Returns:
            The lanes whose runs still do not end.
        """
        if not self._lanes and not self._abandoned and not self._waiting:
            return []  # an idle model costs no lock
        with self._changed:
            for lane in [*self._lanes]:
                if lane.is_stuck(seconds):
                    self._give_up(lane, f"the model gave no answer within {seconds:g} s")
                elif not (lane.thread.is_alive() or self._closed):
                    logger.error("%s: a lane has died, and is replaced", self._series.name)
                    self._give_up(lane, "the thread that computed it died")
            self._start_lanes()
            self._abandoned = [lane for lane in self._abandoned if lane.thread.is_alive()]
            return [*self._abandoned]

    def excuse(self, seconds: float) -> None:
        """Of the time of the runs, so much was nobody's fault: the process was stopped."""
        for lane in self._lanes:
            lane.began += seconds

    def _give_up(self, lane: Lane, reason: str) -> None:
        lane.abandoned = True
        self._lanes.remove(lane)
        self._abandoned.append(lane)
        self._running -= len(lane.jobs)
        self._series.batch_failed()
        for job in lane.jobs:
            _settle(job, BatchFailed(reason))

    def _start_lanes(self) -> None:
        """As many as can take what waits; called with the lock held."""
        idle = sum(not lane.jobs for lane in self._lanes)
        while idle < len(self._waiting) and len(self._lanes) < self._max_lanes:
            try:
                self._lanes.append(self._open_lane())
            except RuntimeError as error:
                self._log_once("cannot start a lane", error)
                return
            idle += 1

    def close(self) -> None:
        """Take no more work; lanes end when they have finished what is there."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def drain(self, seconds: float) -> None:
        """Take no more work, finish what is there; after `seconds`, refuse what still waits."""
        self.close()
        until = time.monotonic() + seconds
        while self._is_at_work() and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # a thread that waits for threads might not start
        with self._changed:
            abandoned, self._waiting = self._waiting, []
        for job in abandoned:
            _settle(job, NotReady("the service stopped before this item's turn"))

    def _is_at_work(self) -> bool:
        return any(lane.thread.is_alive() for lane in self._lanes)

    def threads_at_work(self) -> list[int | None]:
        """Of all lanes that have not ended, those that were given up included."""
        lanes = [*self._lanes, *self._abandoned]
        return [lane.thread.ident for lane in lanes if lane.thread.is_alive()]

    def _open_lane(self) -> Lane:
        name = f"lane of {self._series.name}"
        lane = Lane(threading.Thread(target=lambda: self._work(lane), name=name, daemon=True))
        lane.thread.start()
        return lane

    def _work(self, lane: Lane) -> None:
        """One lane: batch after batch, whatever becomes of one."""
        lower_priority()
        at_work = True
        while at_work:
            try:
                at_work = self._turn(lane)
            except BaseException as error:  # a panic of a library is no Exception
                logger.exception("%s: a lane failed, and goes on", self._series.name)
                at_work = self._fail(lane, error)

    def _turn(self, lane: Lane) -> bool:
        """Compute one batch; whether there may be another."""
        batch = self._next(lane)
        if batch is None:
            return False
        self._series.released(batch.reason, [job.cost for job in batch.jobs])
        more = batch.waiting > 0 or len(batch.jobs) > 1
        with BATCHES.computing(more=more) as exclusive:
            lane.pin(self._exclusive_core if exclusive else None)
            outcomes = self._run(lane, batch.jobs, exclusive=exclusive)
        seconds = time.perf_counter() - lane.started
        with self._changed:
            if lane.abandoned:  # all was answered already
                return False
            lane.jobs = ()
            self._running -= len(batch.jobs)
            if all(isinstance(outcome, Result) for outcome in outcomes):
                self._rate.observe(seconds, batch.cost)
        _reply(batch.jobs, outcomes, lane.started, seconds)
        return True

    def _fail(self, lane: Lane, error: BaseException) -> bool:
        """Answer what the lane was at, or what it could not take; whether it goes on."""
        with self._changed:
            if lane.abandoned:
                return False
            jobs = lane.jobs
            if jobs:
                self._running -= len(jobs)
                lane.jobs = ()
            else:
                jobs, self._waiting = self._waiting, []
        if jobs:
            outcomes = [BatchFailed(f"the lane failed: {error!r}") for _ in jobs]
            _reply(jobs, outcomes, lane.started, 0.0)
        return True

    def _next(self, lane: Lane) -> Batch | None:
        """Wait for work; None when there will be no more, or there was none for a while."""
        with self._changed:
            while not (batch := self._take()):
                self._report_load()
                if self._closed:
                    return None
                if not self._changed.wait(IDLE_SECONDS) and not self._waiting:
                    self._lanes.remove(lane)
                    return None
            lane.started = lane.began = time.perf_counter()
            lane.jobs = batch.jobs
            self._running += len(batch.jobs)
            self._report_load()
            return batch

    def _take(self) -> Batch | None:
        """The oldest job and those of its key most like it in cost, as many as the limits allow.

        The oldest is always among them, so that no length is starved by the others. Of what waits
        while several lanes are idle, each takes its share.
        """
        self._waiting = [job for job in self._waiting if self._is_wanted(job)]
        if not self._waiting:
            return None
        if len(self._waiting) == 1:
            return Batch([self._waiting.pop()], "idle", 0)
        busy = sum(bool(lane.jobs) for lane in self._lanes)
        idle = self._max_lanes - busy if self._shared else 1
        share = math.ceil(len(self._waiting) / idle)
        oldest = self._waiting[0]
        joinable = [job for job in self._waiting if job.key == oldest.key]
        alike = sorted(joinable, key=lambda job: abs(job.cost - oldest.cost))
        jobs, longest, needed = [oldest], oldest.cost, oldest.cost
        reason = "idle" if len(joinable) == len(self._waiting) else "unlike"
        for job in alike[1:]:
            longest, needed = max(longest, job.cost), needed + job.cost
            cost = (len(jobs) + 1) * longest
            if len(jobs) == self._limits.items:
                reason = "full"
            elif len(jobs) == share:
                reason = "shared"
            elif self._limits.cost and cost > self._limits.cost:
                reason = "cost"
            elif cost - needed > self._limits.padding:
                reason = "unlike"
            elif cost * self._rate.seconds > self._limits.seconds:
                reason = "time"
            else:
                jobs.append(job)
                continue
            break
        taken = set(jobs)
        self._waiting = [job for job in self._waiting if job not in taken]
        return Batch(jobs, reason, len(self._waiting))

    def _is_wanted(self, job: Job) -> bool:
        """Whether somebody still waits for this job, and not in vain."""
        if job.deadline <= time.monotonic():
            self._series.dropped("expired")
        elif job.reply.done():
            self._series.dropped("cancelled")
        else:
            return True
        return False

    def _run(self, lane: Lane, jobs: Sequence[Job], *, exclusive: bool) -> list[Outcome]:
        """What comes of each job; a batch that fails is retried by halves, to find the culprit."""
        lane.expected = self._expected(_padded(jobs))
        lane.began = started = time.perf_counter()
        try:
            outcomes: list[Outcome] = list(self._compute([job.item for job in jobs], exclusive))
            if len(outcomes) != len(jobs):
                raise ValueError(f"{len(outcomes)} answers to {len(jobs)} items")
        except Exception as error:  # whatever the model raises is an answer to its callers
            self._series.batch_failed()
            nobody_waits = lane.abandoned or all(job.reply.done() for job in jobs)
            if not nobody_waits:
                self._log_once("failed on a batch", error)
            if len(jobs) == 1 or nobody_waits:
                return [BatchFailed(f"the model failed on this input: {error}") for _ in jobs]
            middle = len(jobs) // 2
            first = self._run(lane, jobs[:middle], exclusive=exclusive)
            return first + self._run(lane, jobs[middle:], exclusive=exclusive)
        if computed := [outcome for outcome in outcomes if isinstance(outcome, Result)]:
            self._series.ran(len(computed), time.perf_counter() - started - _decoding(computed))
        return outcomes

    def _expected(self, cost: int) -> float:
        """Seconds of a run: what was measured at load, or lately if that is more."""
        return max(self._speed.seconds(cost), self._rate.seconds * cost)

    def _log_once(self, what: str, error: Exception) -> None:
        """Numbers apart, an error of this model is logged once."""
        cause = re.sub("[0-9]+", "0", f"{what}: {error}")
        if cause not in self._causes and len(self._causes) < MAX_CAUSES:
            self._causes.add(cause)
            logger.error("%s %s: %s", self._series.name, what, error)

    def _report_load(self) -> None:
        self._series.load(len(self._waiting), self._running)


def _padded(jobs: Sequence[Job]) -> int:
    """Their cost as one batch: each is padded to the costliest."""
    return len(jobs) * max(job.cost for job in jobs)


def _reply(
    jobs: Sequence[Job], outcomes: Sequence[Outcome], started: float, seconds: float
) -> None:
    """From a lane: let the event loop answer, if there still is one."""
    with suppress(RuntimeError):
        loop = jobs[0].reply.get_loop()
        loop.call_soon_threadsafe(_answer, jobs, outcomes, started, seconds)


def _answer(
    jobs: Sequence[Job], outcomes: Sequence[Outcome], started: float, seconds: float
) -> None:
    """On the event loop: give each caller what its job came to."""
    inferring = seconds - _decoding(outcomes)
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, Result):
            outcome.timings.queue = started - job.arrived
            outcome.timings.infer = inferring
        _settle(job, outcome)


def _decoding(outcomes: Sequence[Outcome]) -> float:
    """The seconds of a batch that went into decoding."""
    return sum(outcome.timings.decode for outcome in outcomes if isinstance(outcome, Result))


def _settle(job: Job, outcome: Result | Exception) -> None:
    if job.reply.done():  # its caller has left
        return
    if isinstance(outcome, Exception):
        job.reply.set_exception(outcome)
    else:
        job.reply.set_result(outcome)
