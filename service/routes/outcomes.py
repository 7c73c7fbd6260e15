"""Outcomes: each item that a route sends to a model is counted by how it ended."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from time import perf_counter
from typing import Any, TypeVar

from service.errors import CallerError, SensoriumError
from service.routes.problems import code_of
from service.served import Served

T = TypeVar("T")


def count(models: Iterable[Served], outcome: object, started: float) -> None:
    """Count one item, begun at `started` by perf_counter, for each of the models."""
    for served in models:
        if isinstance(outcome, SensoriumError):
            served.series.stage("failed", perf_counter() - started)
            served.series.done(code_of(outcome))
        else:
            served.series.done("ok")


async def all_or_none(served: Served, answers: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """A model's answers to all items of one request, in order, each counted.

    Raises:
        CallerError: an item cannot be used; the sentence says which it was.
        SensoriumError: likewise the first that one of them raises; the others are given up.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_numbered(number, _counted(served, answer)))
                for number, answer in enumerate(answers)
            ]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _counted(served: Served, answer: Awaitable[T]) -> T:
    """One item's answer, counted.

    Raises:
        SensoriumError: there is no answer.
    """
    started = perf_counter()
    try:
        found = await answer
    except SensoriumError as error:
        count([served], error, started)
        raise
    count([served], found, started)
    return found


async def _numbered(number: int, answer: Awaitable[T]) -> T:
    """The answer to one of several items, all of which a request wants or none.

    Raises:
        CallerError: the item cannot be used; the sentence says which it was.
    """
    try:
        return await answer
    except CallerError as error:
        raise type(error)(f"item {number}: {error}") from error
