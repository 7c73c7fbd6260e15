"""Callers: one who leaves frees its place before its work is done."""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, TypeVar

from fastapi import Request

from service.errors import CallerGone
from service.inference.admission import Admission

T = TypeVar("T")

# Who may wait longer is watched, whether it is still there; less is not worth two tasks.
WATCHED_SECONDS = 0.05


async def while_there(
    request: Request, admissions: Collection[Admission], work: Coroutine[Any, Any, T]
) -> T:
    """What `work` gives; if it has to wait, it is cancelled when the caller leaves.

    Args:
        request: its body was read.
        admissions: of the models that the work waits for.

    Raises:
        CallerGone: it left.
    """
    if max([admission.wait for admission in admissions]) <= WATCHED_SECONDS:
        return await work
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_departure(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise CallerGone("the caller has left")
    finally:
        working.cancel()
        leaving.cancel()


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
