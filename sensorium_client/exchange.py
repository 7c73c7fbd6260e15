"""One call: sent until it is answered, or refused, or its time is up.

All that is asked may be asked twice: an answer changes nothing in the service.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from sensorium_client.errors import (
    FileRefused,
    Problem,
    RequestRefused,
    SensoriumError,
    Unavailable,
    Unreachable,
)

logger = logging.getLogger(__name__)

ATTEMPT_SECONDS = 30.0  # of one attempt at most: the service may have vanished without a word
NETWORK_SECONDS = 1.0  # for the service's own "too late" to arrive
FIRST_PAUSE, DOUBLINGS = 0.25, 4  # seconds, up to 4, where no Retry-After tells them

KINDS: dict[int, type[Problem]] = {
    **dict.fromkeys((413, 422, 500), FileRefused),
    **dict.fromkeys((429, 502, 503, 504), Unavailable),
}


async def exchange(
    http: httpx.AsyncClient, request: httpx.Request, seconds: float
) -> dict[str, Any]:
    """The JSON that answers the request within so many seconds, pauses and attempts included.

    Raises:
        Problem: the service's refusal; `Unavailable` when no time is left to try again.
        Unreachable: nothing came in time.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    attempt = 0
    while True:
        try:
            return await _attempt(http, request, min(deadline - clock(), ATTEMPT_SECONDS))
        except (Unavailable, Unreachable) as error:
            pause = pause_after(attempt, error)
            if clock() + pause >= deadline:
                raise
            logger.info("%s; again in %.1f s", error, pause)
        await asyncio.sleep(pause)
        attempt += 1


def pause_after(attempt: int, error: SensoriumError) -> float:
    """Seconds until the next attempt: no less than `Retry-After`, and not all callers at once."""
    asked = error.retry_after if isinstance(error, Unavailable) else None
    pause = FIRST_PAUSE * 2 ** min(attempt, DOUBLINGS) if asked is None else asked
    return max(pause, FIRST_PAUSE) * random.uniform(1, 1.5)


def read_retry_after(value: str | None) -> float | None:
    """Seconds, from the header's number or date; None where it tells nothing."""
    if value is None:
        return None
    if value.isdecimal():
        return float(value)
    try:
        return (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # no date, or one without its zone
        return None


async def _attempt(
    http: httpx.AsyncClient, request: httpx.Request, seconds: float
) -> dict[str, Any]:
    service = request.url.netloc.decode()
    request.headers["X-Timeout-Ms"] = str(max(1, round(seconds * 1000)))
    try:
        async with asyncio.timeout(seconds + NETWORK_SECONDS):
            response = await http.send(request)
    except TimeoutError:
        raise Unreachable(f"{service}: no answer within {seconds:.1f} s") from None
    except httpx.TransportError as error:
        raise Unreachable(f"{service}: {str(error) or type(error).__name__}") from error
    document = _read_json(response)
    if response.status_code == 200 and "results" in document:
        return document
    raise _problem(response, document)


def _read_json(response: httpx.Response) -> dict[str, Any]:
    """The answer's JSON object; nothing where it is none, which then another server has sent."""
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _problem(response: httpx.Response, document: Mapping[str, Any]) -> Problem:
    status = response.status_code
    foreign = f"{response.url} answered {status} {response.reason_phrase}; is it Sensorium?"
    return KINDS.get(status, RequestRefused)(
        document.get("detail", foreign),
        document.get("code", f"http_{status}"),
        status,
        response.headers.get("X-Request-Id", ""),
        read_retry_after(response.headers.get("Retry-After")),
    )
