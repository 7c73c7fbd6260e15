"""Outcomes: each item that a route sends to a model is counted by how it ended."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter
from typing import TypeVar

from service.api.problems import code_of
from service.errors import BatchFailed, CallerError, SensoriumError
from service.inference.servable import Servable

Given = TypeVar("Given")
T = TypeVar("T")


def count_failure(models: Iterable[Servable], error: SensoriumError, started: float) -> None:
    """Count one item, begun at `started` by perf_counter, for each of the models."""
    for served in models:
        served.series.stages(failed=perf_counter() - started)
        served.series.done(code_of(error))


async def all_or_none(
    served: Servable,
    predict: Callable[[Given], Awaitable[T]],
    items: Sequence[Given],
    *,
    window: int,
    noun: str = "item",
) -> list[T]:
    """A model's answers to all items of one request, in order, each counted.

    Args:
        window: so many are asked for at once, so that one request does not fill the queue.
        noun: what the sentence of an error calls an item.

    Raises:
        CallerError: an item cannot be used; the sentence says which it was.
        SensoriumError: likewise the first that one of them raises; the others are cancelled.
    """
    found: list[T] = []
    for start in range(0, len(items), window):
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(_counted(served, predict, item, f"{noun} {number}"))
                    for number, item in enumerate(items[start : start + window], start)
                ]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        found += [task.result() for task in tasks]
    return found


async def _counted(
    served: Servable, predict: Callable[[Given], Awaitable[T]], item: Given, name: str
) -> T:
    """One item's answer, counted.

    Raises:
        CallerError, BatchFailed: there is none; the sentence begins with its name.
        SensoriumError: there is no answer.
    """
    started = perf_counter()
    try:
        found = await predict(item)
    except SensoriumError as error:
        count_failure([served], error, started)
        if isinstance(error, CallerError | BatchFailed):
            error.args = (f"{name}: {error}",)  # which leaves what else it says
        raise
    served.series.done("ok")
    return found
