"""Batch: which of the waiting jobs are computed together."""

import asyncio
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from service.errors import DeadlineExceeded
from service.model.types import Item, Result


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One item in the queue, with the future that its request awaits."""

    item: Item
    cost: int
    key: Hashable
    deadline: float  # on the event loop's clock, seconds
    arrived: float  # by perf_counter: uvloop's own clock only counts milliseconds
    reply: asyncio.Future[Result]

    def settle(self, outcome: Result | Exception) -> None:
        """Answer the request, unless it was answered or cancelled before."""
        if self.reply.done():
            return
        if isinstance(outcome, Exception):
            self.reply.set_exception(outcome)
        else:
            self.reply.set_result(outcome)

    def expire(self) -> None:
        """Fail the job; called at its deadline."""
        self.settle(DeadlineExceeded("the answer would have come after the deadline"))


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The size of one batch, and the length of the queue.

    All items of a batch are padded to the costliest one. If the padding costs more than `padding`,
    two batches are cheaper than one.
    """

    items: int
    cost: int | None = None  # items x the costliest
    padding: float = 0  # units of cost; as much as a run costs on its own
    seconds: float = math.inf  # of computation; a batch has at least one item
    queue: int = 512  # items


@dataclass(frozen=True, slots=True)
class Batch:
    jobs: list[Job]
    reason: str  # why it holds no more items: full, shared, cost, time, unlike, idle
    waiting: int  # jobs that stay in the queue

    @property
    def cost(self) -> int:
        """With padding."""
        return padded_cost(self.jobs)


def choose_batch(
    waiting: Sequence[Job], limits: BatchLimits, unit_seconds: float, idle: int
) -> Batch:
    """The oldest job, with the jobs of its key that are closest to it in cost.

    The oldest job is always included, so no length starves.

    Args:
        waiting: one job or more, oldest first.
        unit_seconds: expected time of one unit of cost.
        idle: lanes without work; each takes its share.
    """
    oldest = waiting[0]
    if len(waiting) == 1:
        return Batch([oldest], "idle", 0)
    share = math.ceil(len(waiting) / idle)
    joinable = [job for job in waiting if job.key == oldest.key]
    alike = sorted(joinable, key=lambda job: abs(job.cost - oldest.cost))
    jobs, longest, needed = [oldest], oldest.cost, oldest.cost
    reason = "idle" if len(joinable) == len(waiting) else "unlike"
    for job in alike[1:]:
        longest, needed = max(longest, job.cost), needed + job.cost
        cost = (len(jobs) + 1) * longest
        if len(jobs) == limits.items:
            reason = "full"
        elif len(jobs) == share:
            reason = "shared"
        elif limits.cost and cost > limits.cost:
            reason = "cost"
        elif cost - needed > limits.padding:
            reason = "unlike"
        elif cost * unit_seconds > limits.seconds:
            reason = "time"
        else:
            jobs.append(job)
            continue
        break
    return Batch(jobs, reason, len(waiting) - len(jobs))


def padded_cost(jobs: Sequence[Job]) -> int:
    """The cost of a batch, whose items are all padded to the costliest."""
    return len(jobs) * max(job.cost for job in jobs)
