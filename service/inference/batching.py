"""Batching: items that wait while the lanes are busy become the next batch, without a timer."""

import asyncio
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from service.errors import BatchFailed, CallerError, NotReady, QueueFull
from service.inference.batch import Batch, BatchLimits, Job, choose_batch, padded_cost
from service.metrics import ModelSeries
from service.model.speed import UNMEASURED, Speed
from service.model.types import Item, Result
from service.runtime.placement import BATCHES, lower_priority, pin

logger = logging.getLogger(__name__)

SLOWER = 5.0  # a run that takes this many times its expected time is stuck
MAX_CAUSES = 100  # different errors of a model that are logged
IDLE_SECONDS = 10.0  # a lane without work ends after this time, so an idle model has no threads

Outcome = Result | CallerError | BatchFailed

# Computes items of one key. An item that cannot be decoded gets an error and does not affect the
# others. The flag says whether the run is exclusive and may use all cores.
Compute = Callable[[Sequence[Item], bool], Sequence[Result | CallerError]]


@dataclass(slots=True, eq=False)
class Lane:
    """A thread that computes batches, and its current run."""

    thread: threading.Thread
    jobs: Sequence[Job] = ()
    started: float = 0.0  # of the current batch, by perf_counter
    began: float = 0.0  # of the current run; a batch that fails is run again in halves
    expected: float = 0.0  # seconds of the current run
    abandoned: bool = False  # its run was stuck, and another lane replaces it
    core: int | None = None  # to which it is pinned

    def patience(self, seconds: float) -> float:
        """How long its run may take: so many seconds, or longer if it is expected to be long."""
        return max(seconds, SLOWER * self.expected)

    def is_stuck(self, seconds: float) -> bool:
        return bool(self.jobs) and time.perf_counter() - self.began > self.patience(seconds)

    def pin(self, core: int | None) -> None:
        """Pin the calling thread, which must be this lane; None: any core."""
        if core != self.core:
            pin(core)
            self.core = core


@dataclass(slots=True)
class _ServiceRate:
    """Seconds of a lane per unit of cost, smoothed over the last batches."""

    seconds: float = field(default=0.0)

    def observe(self, seconds: float, cost: int) -> None:
        latest = seconds / cost
        self.seconds = 0.8 * self.seconds + 0.2 * latest if self.seconds else latest


class Batcher:
    """One queue and a few lanes in front of one model.

    A lane is a thread that computes one batch after the other. The queue fills while all lanes are
    busy, so batches grow with the load, and a single client never waits. A lane takes its next
    batch without the event loop, which may be busy. Lanes start when items arrive, and end after a
    pause.
    """

    def __init__(
        self,
        compute: Compute,
        limits: BatchLimits,
        lanes: int,
        series: ModelSeries,
        *,
        speed: Speed = UNMEASURED,
        pinned: bool = False,
        exclusive_core: int | None = None,
        shared: bool = False,
        instant: bool = False,
    ) -> None:
        """Args:
        speed: of the model's runs, as measured at load.
        pinned: each lane is pinned to the least busy core for the time of a batch.
        exclusive_core: the core of a lane in an exclusive run; the run's other threads have others.
        shared: idle lanes share the queue, because each has cores of its own.
        instant: `submit` computes each item at once, without queue and lanes.
        """
        self._compute = compute
        self._limits = limits
        self._series = series
        self._pinned = pinned
        self._exclusive_core = exclusive_core
        self._shared = shared
        self.instant = instant
        self._max_lanes = lanes
        self._changed = threading.Condition()  # guards all below
        self._waiting: list[Job] = []
        self._running = 0
        self._speed = speed
        self._rate = _ServiceRate(speed.unit)
        self._closed = False
        self._causes: set[str] = set()  # errors that were logged
        self._lanes: list[Lane] = []
        self._abandoned: list[Lane] = []
        self.last_submitted = -math.inf  # monotonic seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain(math.inf)

    async def submit(self, item: Item, deadline: float = math.inf) -> Result:
        """Wait for this item's result. If the request is cancelled, its job is dropped.

        Args:
            deadline: on the event loop's clock, in seconds.

        Raises:
            QueueFull: at once, with the expected wait.
            DeadlineExceeded: the deadline has passed.
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
        except Exception as error:  # onnxruntime's exceptions share no public base
            self._series.batch_failed()
            self._log_once("failed on a batch", error)
            raise BatchFailed(f"the model failed on this input: {error}") from error
        if isinstance(outcome, CallerError):
            raise outcome
        outcome.timings.infer = time.perf_counter() - started
        self._series.ran(1, outcome.timings.infer)
        return outcome

    def expected_wait(self) -> float:
        """Seconds until the waiting jobs are done, by the measured service rate."""
        return sum(job.cost for job in self._waiting) * self._rate.seconds / self._max_lanes

    def patience(self, cost: int, seconds: float) -> float:
        """How long a run of this cost may take: so many seconds, or longer if that is normal."""
        return max(seconds, SLOWER * self._expected(cost))

    def replace_stuck(self, seconds: float) -> list[Lane]:
        """Abandon runs that take too long, and replace their lanes.

        Returns:
            The abandoned lanes that are still running.
        """
        if not self._lanes and not self._abandoned and not self._waiting:
            return []  # an idle model costs no lock
        with self._changed:
            for lane in [*self._lanes]:
                if lane.is_stuck(seconds):
                    self._abandon(lane, f"the model gave no answer within {seconds:g} s")
                elif not (lane.thread.is_alive() or self._closed):
                    logger.error("%s: a lane has died, and is replaced", self._series.name)
                    self._abandon(lane, "the thread that computed it died")
            self._start_lanes()
            self._abandoned = [lane for lane in self._abandoned if lane.thread.is_alive()]
            return [*self._abandoned]

    def excuse(self, seconds: float) -> None:
        """Exclude a time from the current runs, because the process was stopped."""
        for lane in self._lanes:
            lane.began += seconds

    def _abandon(self, lane: Lane, reason: str) -> None:
        lane.abandoned = True
        self._lanes.remove(lane)
        self._abandoned.append(lane)
        self._running -= len(lane.jobs)
        self._series.batch_failed()
        for job in lane.jobs:
            job.settle(BatchFailed(reason))

    def _start_lanes(self) -> None:
        """Start as many lanes as the waiting jobs need; called with the lock held."""
        idle = sum(not lane.jobs for lane in self._lanes)
        while idle < len(self._waiting) and len(self._lanes) < self._max_lanes:
            try:
                self._lanes.append(self._open_lane())
            except RuntimeError as error:
                self._log_once("cannot start a lane", error)
                return
            idle += 1

    def close(self) -> None:
        """Refuse new items; lanes end when the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def drain(self, seconds: float) -> None:
        """Refuse new items and finish the queue; after `seconds`, fail the jobs that still wait."""
        self.close()
        until = time.monotonic() + seconds
        while self._is_at_work() and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # a thread that waits for threads might not start
        with self._changed:
            abandoned, self._waiting = self._waiting, []
        for job in abandoned:
            job.settle(NotReady("the service stopped before this item's turn"))

    def _is_at_work(self) -> bool:
        return any(lane.thread.is_alive() for lane in self._lanes)

    def threads_at_work(self) -> list[int | None]:
        """The threads of all lanes that have not ended, abandoned ones included."""
        lanes = [*self._lanes, *self._abandoned]
        return [lane.thread.ident for lane in lanes if lane.thread.is_alive()]

    def _open_lane(self) -> Lane:
        name = f"lane of {self._series.name}"
        lane = Lane(threading.Thread(target=lambda: self._work(lane), name=name, daemon=True))
        lane.thread.start()
        return lane

    def _work(self, lane: Lane) -> None:
        """A lane's thread: compute batches, also after a failure."""
        lower_priority()
        at_work = True
        while at_work:
            try:
                at_work = self._turn(lane)
            except BaseException as error:  # a panic of a library is no Exception
                logger.exception("%s: a lane failed, and goes on", self._series.name)
                at_work = self._fail(lane, error)

    def _turn(self, lane: Lane) -> bool:
        """Compute one batch; return whether the lane goes on."""
        batch = self._next(lane)
        if batch is None:
            return False
        self._series.released(batch.reason, [job.cost for job in batch.jobs])
        more = batch.waiting > 0 or len(batch.jobs) > 1
        with BATCHES.computing(lane.core, more=more, exclusive_core=self._exclusive_core) as (
            exclusive,
            core,
        ):
            pinned = self._exclusive_core is not None if exclusive else self._pinned
            lane.pin(core if pinned else None)
            outcomes = self._run(lane, batch.jobs, exclusive=exclusive)
        seconds = time.perf_counter() - lane.started
        with self._changed:
            if lane.abandoned:  # its jobs were answered
                return False
            lane.jobs = ()
            self._running -= len(batch.jobs)
            if all(isinstance(outcome, Result) for outcome in outcomes):
                self._rate.observe(seconds, batch.cost)
        _reply(batch.jobs, outcomes, lane.started, seconds)
        return True

    def _fail(self, lane: Lane, error: BaseException) -> bool:
        """Fail the lane's batch, or the queue that it could not read; return whether it goes on."""
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
        """Wait for a batch; None if the batcher is closed or the lane was idle for too long."""
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
        """The next batch, removed from the queue; None if no job waits."""
        self._waiting = [job for job in self._waiting if self._is_wanted(job)]
        if not self._waiting:
            return None
        idle = self._max_lanes - sum(bool(lane.jobs) for lane in self._lanes)
        batch = choose_batch(
            self._waiting, self._limits, self._rate.seconds, idle if self._shared else 1
        )
        taken = set(batch.jobs)
        self._waiting = [job for job in self._waiting if job not in taken]
        return batch

    def _is_wanted(self, job: Job) -> bool:
        """Whether the job is neither cancelled nor expired."""
        if job.deadline <= time.monotonic():
            self._series.dropped("expired")
        elif job.reply.done():
            self._series.dropped("cancelled")
        else:
            return True
        return False

    def _run(self, lane: Lane, jobs: Sequence[Job], *, exclusive: bool) -> list[Outcome]:
        """Each job's outcome; a batch that fails is run again in halves, to find the bad item."""
        lane.expected = self._expected(padded_cost(jobs))
        lane.began = started = time.perf_counter()
        try:
            outcomes: list[Outcome] = list(self._compute([job.item for job in jobs], exclusive))
            if len(outcomes) != len(jobs):
                raise ValueError(f"{len(outcomes)} answers to {len(jobs)} items")
        except Exception as error:  # onnxruntime's exceptions share no public base
            self._series.batch_failed()
            unwanted = lane.abandoned or all(job.reply.done() for job in jobs)
            if not unwanted:
                self._log_once("failed on a batch", error)
            if len(jobs) == 1 or unwanted:
                return [BatchFailed(f"the model failed on this input: {error}") for _ in jobs]
            middle = len(jobs) // 2
            first = self._run(lane, jobs[:middle], exclusive=exclusive)
            return first + self._run(lane, jobs[middle:], exclusive=exclusive)
        if computed := [outcome for outcome in outcomes if isinstance(outcome, Result)]:
            self._series.ran(len(computed), time.perf_counter() - started - _decoding(computed))
        return outcomes

    def _expected(self, cost: int) -> float:
        """Expected seconds of a run: as measured at load, or lately if that was slower."""
        return max(self._speed.seconds(cost), self._rate.seconds * cost)

    def _log_once(self, what: str, error: Exception) -> None:
        """Log each kind of error once; numbers in it do not count."""
        cause = re.sub("[0-9]+", "0", f"{what}: {error}")
        if cause not in self._causes and len(self._causes) < MAX_CAUSES:
            self._causes.add(cause)
            logger.error("%s %s: %s", self._series.name, what, error)

    def _report_load(self) -> None:
        self._series.load(len(self._waiting), self._running)


def _reply(
    jobs: Sequence[Job], outcomes: Sequence[Outcome], started: float, seconds: float
) -> None:
    """Called by a lane: hand the outcomes to the event loop, unless it is closed."""
    with suppress(RuntimeError):
        loop = jobs[0].reply.get_loop()
        loop.call_soon_threadsafe(_answer, jobs, outcomes, started, seconds)


def _answer(
    jobs: Sequence[Job], outcomes: Sequence[Outcome], started: float, seconds: float
) -> None:
    """On the event loop: settle each job."""
    inferring = seconds - _decoding(outcomes)
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, Result):
            outcome.timings.queue = started - job.arrived
            outcome.timings.infer = inferring
        job.settle(outcome)


def _decoding(outcomes: Sequence[Outcome]) -> float:
    """Seconds that a batch spent on decoding."""
    return sum(outcome.timings.decode for outcome in outcomes if isinstance(outcome, Result))
