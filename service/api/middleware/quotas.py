"""Quotas: how many requests of one caller are taken at once, and how many a second."""

from itertools import islice
from time import monotonic

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.middleware.auth import HEALTH
from service.api.problems import answer
from service.errors import TooManyRequests

ALWAYS_ANSWERED = HEALTH | {"/metrics"}
ROUNDING = 1e-6  # seconds, by which sums of many intervals may be off


class Quotas:
    """ASGI middleware; a caller is a key, where keys are asked for, or an address.

    Each worker counts for itself: none has to ask another, so several take more together.
    """

    def __init__(self, app: ASGIApp, concurrency: int, rate: float) -> None:
        """So many at once, and so many a second; 0: any number."""
        self._app = app
        self._concurrency = concurrency
        self._rate = Rate(rate) if rate else None
        self._inside: dict[str, int] = {}  # caller -> its requests that are not answered yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS_ANSWERED:
            await self._app(scope, receive, send)
            return
        address = scope["client"][0] if scope["client"] else ""  # "": a socket that is a file
        caller = scope["state"].get("key", address)
        try:
            self._check(caller)
        except TooManyRequests as error:
            await answer(Request(scope), error)(scope, receive, send)
            return
        self._inside[caller] = self._inside.get(caller, 0) + 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside[caller] -= 1
            if not self._inside[caller]:
                del self._inside[caller]

    def _check(self, caller: str) -> None:
        """Raises:
        TooManyRequests: one more is too many.
        """
        inside = self._inside.get(caller, 0)
        if self._concurrency and inside >= self._concurrency:
            raise TooManyRequests(
                f"{inside} requests of yours are being answered; more are not taken at once", 1.0
            )
        wait = self._rate.take(caller, monotonic()) if self._rate else 0.0
        if wait:
            raise TooManyRequests(f"the next request of yours is taken in {wait:.1f} s", wait)


class Rate:
    """So many requests a second from each caller; a second's worth may come at once.

    Each request is paid for with an interval of time, and no caller may owe more than a second.
    What it owes is one number: the moment at which all that it asked is paid for.
    """

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second  # seconds
        self._credit = max(1.0, self._interval) + ROUNDING
        self._paid: dict[str, float] = {}  # caller -> when; who asked last stands last

    def take(self, caller: str, now: float) -> float:
        """Count a request and give 0; or the seconds until it may come again."""
        for other in list(islice(self._paid, 2)):  # more than come in, so that few are kept
            if self._paid[other] <= now:
                del self._paid[other]
        paid = max(now, self._paid.get(caller, now)) + self._interval
        if paid - self._credit > now:
            return paid - self._credit - now
        self._paid.pop(caller, None)
        self._paid[caller] = paid
        return 0.0
