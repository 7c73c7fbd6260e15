"""Quotas: limits of one client's concurrent requests and of its requests per second."""

from itertools import islice
from time import monotonic

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.middleware.auth import HEALTH
from service.api.problems import answer
from service.errors import TooManyRequests

ALWAYS_ANSWERED = HEALTH | {"/metrics"}
ROUNDING = 1e-6  # seconds, the rounding error of a sum of many intervals


class Quotas:
    """ASGI middleware. A client is a key or, without authentication, an address.

    Each worker counts separately, so several workers together accept more.
    """

    def __init__(self, app: ASGIApp, concurrency: int, rate: float) -> None:
        """Args:
        concurrency: requests of one client in progress; 0: unlimited.
        rate: requests per second of one client; 0: unlimited.
        """
        self._app = app
        self._concurrency = concurrency
        self._rate = Rate(rate) if rate else None
        self._in_progress: dict[str, int] = {}  # client -> its requests without a response yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS_ANSWERED:
            await self._app(scope, receive, send)
            return
        address = scope["client"][0] if scope["client"] else ""  # "": a Unix socket
        client = scope["state"].get("key", address)
        try:
            self._check(client)
        except TooManyRequests as error:
            await answer(Request(scope), error)(scope, receive, send)
            return
        self._in_progress[client] = self._in_progress.get(client, 0) + 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_progress[client] -= 1
            if not self._in_progress[client]:
                del self._in_progress[client]

    def _check(self, client: str) -> None:
        """Raises:
        TooManyRequests: the client exceeds one of its limits.
        """
        in_progress = self._in_progress.get(client, 0)
        if self._concurrency and in_progress >= self._concurrency:
            raise TooManyRequests(
                f"{in_progress} of your requests are in progress, which is the limit", 1.0
            )
        wait = self._rate.take(client, monotonic()) if self._rate else 0.0
        if wait:
            raise TooManyRequests(f"rate limit exceeded; try again in {wait:.1f} s", wait)


class Rate:
    """A rate limit for each client, with bursts of up to one second's worth of requests.

    Each request uses up one interval of time, and a client can be ahead by at most a second. One
    number per client is enough: the time until which its requests have used up the rate.
    """

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second  # seconds
        self._credit = max(1.0, self._interval) + ROUNDING
        self._used_until: dict[str, float] = {}  # client -> time; the latest client is last

    def take(self, client: str, now: float) -> float:
        """Count a request and return 0, or return the seconds until it is accepted."""
        for other in list(islice(self._used_until, 2)):  # one is added, so idle ones run out
            if self._used_until[other] <= now:
                del self._used_until[other]
        used_until = max(now, self._used_until.get(client, now)) + self._interval
        if used_until - self._credit > now:
            return used_until - self._credit - now
        self._used_until.pop(client, None)
        self._used_until[client] = used_until
        return 0.0
