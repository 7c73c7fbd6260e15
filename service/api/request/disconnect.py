"""Disconnects: queued work of a client that disconnects is cancelled."""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

from fastapi import Request

from service.errors import CallerGone
from service.inference.admission import Admission

T = TypeVar("T")

WATCHED_SECONDS = 0.05  # a shorter expected wait is not worth the two extra tasks


async def while_there(
    request: Request, admissions: Collection[Admission], work: Coroutine[Any, Any, T]
) -> T:
    """The result of `work`. If its expected wait is long, a disconnect cancels it.

    Args:
        request: a request with its body read.
        admissions: those of the models that the work waits for.

    Raises:
        CallerGone: the client disconnected.
    """
    if max([admission.wait for admission in admissions]) <= WATCHED_SECONDS:
        return await work
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise CallerGone("the client disconnected")
    finally:
        working.cancel()
        leaving.cancel()


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
