"""The edge: every request gets an id and a bounded body; every answer says how to treat it."""

import itertools
import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadRequest, QueueFull, TooLarge
from service.routes.problems import describe, respond
from service.settings import Settings

USABLE_ID = re.compile(r"[\x21-\x7e]{1,128}")
LENGTH = re.compile(rb"[0-9]{1,18}")
PROCESS, NUMBERS = secrets.token_hex(12), itertools.count()  # ids in the order of arrival
# What a browser does with an answer that somebody lured it to: neither guess its type, nor keep it,
# nor run or frame anything of it.
SAFETY = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]


class Edge:
    """ASGI middleware: `X-Request-Id` in and out; no more of a body, and of all, than may be."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._max_body_bytes = settings.max_body_bytes
        self._max_held_bytes = settings.max_held_bytes
        self._held = 0  # bytes of the bodies of all requests that are not answered yet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if USABLE_ID.fullmatch(given) else f"{PROCESS}{next(NUMBERS):08x}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = (b"x-request-id", request_id.encode())
                message["headers"] = [*message["headers"], own, *SAFETY]
            await send(message)

        declared = headers.get(b"content-length", b"0")
        if not LENGTH.fullmatch(declared):
            error = BadRequest("Content-Length is not a number")
            await respond(describe(error, request_id), scope["path"])(scope, receive, send_with_id)
        elif int(declared) > self._max_body_bytes:
            refusal = respond(describe(self._too_large(), request_id), scope["path"])
            refusal.headers["Connection"] = "close"  # so much is not read to its end
            await refusal(scope, receive, send_with_id)
        else:
            await self._bound(scope, receive, send_with_id)

    async def _bound(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, until the body is beyond its limit, or all bodies together are beyond theirs."""
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._held += size
            if received > self._max_body_bytes:
                raise self._too_large()
            if self._held > self._max_held_bytes:
                raise QueueFull(f"requests hold {self._held:,} bytes already", retry_after=1.0)
            return message

        try:
            await self._app(scope, receive_bounded, send)
        finally:
            self._held -= received

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body has more than {self._max_body_bytes:,} bytes; send less at once")
