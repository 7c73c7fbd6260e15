"""Ingress: gives every request an id and bounds its body; adds security headers to responses."""

import asyncio
import itertools
import re
import secrets
from time import perf_counter

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.dispatch import ROUTES
from service.api.problems import describe, respond
from service.errors import BadRequest, QueueFull, TooLarge, UnknownEncoding
from service.metrics import request_seconds_of, requests_of
from service.settings import Settings

USABLE_ID = re.compile(r"[\x21-\x7e]{1,128}")
LENGTH = re.compile(rb"[0-9]{1,18}")
PROCESS, NUMBERS = secrets.token_hex(12), itertools.count()  # ids in the order of arrival
# A browser must not guess the type of a response, store it, run its scripts, or frame it.
SAFETY = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]


METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
OTHER = "other"  # unknown methods and routes share a series, so clients cannot create more


def new_id() -> str:
    """An id for a request without a usable `X-Request-Id`."""
    return f"{PROCESS}{next(NUMBERS):08x}"


class Ingress:
    """ASGI middleware: `X-Request-Id`, limits for one body and for all bodies, request metrics."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._max_body_bytes = settings.max_body_bytes
        self._max_held_bytes = settings.max_held_bytes
        self._inflating = asyncio.Lock()
        self._held = 0  # bytes of the bodies of all requests without a response yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if USABLE_ID.fullmatch(given) else new_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["arrived"] = asyncio.get_running_loop().time()
        begun, method, status = perf_counter(), scope["method"], 0
        head_only = method == "HEAD"
        if head_only or scope["path"].endswith("/"):
            scope = _simplify(scope)
        received = held = 0  # bytes

        def hold(size: int) -> None:
            """Count bytes that this request holds in memory.

            Raises:
                QueueFull: all requests together exceed the limit.
            """
            nonlocal held
            held += size
            self._held += size
            if self._held > self._max_held_bytes:
                raise QueueFull(f"requests already hold {self._held:,} bytes", retry_after=1.0)

        def release() -> None:
            nonlocal held
            self._held -= held
            held = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            if received > self._max_body_bytes:
                raise self._too_large()
            hold(size)
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                release()  # a slow client that reads its response holds no body
                own = (b"x-request-id", request_id.encode())
                message["headers"] = [*message["headers"], own, *SAFETY]
            elif head_only:
                message["body"] = b""
            await send(message)

        # Inflated bytes count as well.
        state["hold"], state["inflating"] = hold, self._inflating
        try:
            app = self._refuse(scope, headers) or self._app
            await app(scope, receive_bounded, send_with_id)
        finally:
            release()
            _record_metrics(scope, method, status, perf_counter() - begun)

    def _refuse(self, scope: Scope, headers: dict[bytes, bytes]) -> Response | None:
        request_id = scope["state"]["request_id"]
        declared = headers.get(b"content-length", b"0")
        if not LENGTH.fullmatch(declared):
            error = BadRequest("Content-Length is not a number")
            return respond(describe(error, request_id), scope["path"])
        if b"transfer-encoding" in headers and (coding := _unsupported_coding(scope)):
            unknown = UnknownEncoding(
                f"Transfer-Encoding {coding[:100]} is not supported; send only chunked, and"
                " compress with Content-Encoding: gzip"
            )
            return respond(describe(unknown, request_id), scope["path"])
        if int(declared) > self._max_body_bytes:
            refusal = respond(describe(self._too_large(), request_id), scope["path"])
            refusal.headers["Connection"] = "close"  # the body is not read
            return refusal
        return None

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body exceeds {self._max_body_bytes:,} bytes; send several requests")


def _record_metrics(scope: Scope, method: str, status: int, seconds: float) -> None:
    path = scope["path"]
    route = path if path in ROUTES else getattr(scope.get("route"), "path", OTHER)
    requests_of(route, method if method in METHODS else OTHER, status).inc()
    request_seconds_of(route).observe(seconds)


def _unsupported_coding(scope: Scope) -> str:
    codings = b", ".join(v for name, v in scope["headers"] if name == b"transfer-encoding")
    return "" if codings.strip().lower() == b"chunked" else codings.decode("latin-1")


def _simplify(scope: Scope) -> Scope:
    """Treat HEAD as GET, and ignore a slash at the end of the path."""
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    path, raw_path = scope["path"].rstrip("/") or "/", scope.get("raw_path", b"").rstrip(b"/")
    return {**scope, "method": method, "path": path, "raw_path": raw_path or b"/"}
