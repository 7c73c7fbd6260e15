"""Traffic: each request is counted by route, method and status, and timed."""

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import request_seconds_of, requests_of
from service.routes.direct import ROUTES

METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
OTHER = "other"  # clients do not choose how many series there are


class Traffic:
    """ASGI middleware around all others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = perf_counter(), 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            route = _template(scope)
            method = scope["method"] if scope["method"] in METHODS else OTHER
            requests_of(route, method, status).inc()
            request_seconds_of(route).observe(perf_counter() - begun)


def _template(scope: Scope) -> str:
    """The path of the route as it is declared, with names for its parameters."""
    if scope["path"] in ROUTES:
        return str(scope["path"])
    return getattr(scope.get("route"), "path", OTHER)
