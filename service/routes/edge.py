"""The edge: every request gets an id and a bounded body; every answer says how to treat it."""

import itertools
import re
import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadRequest, TooLarge
from service.routes.problems import describe, respond

USABLE_ID = re.compile(r"[\x21-\x7e]{1,128}")
PROCESS, NUMBERS = (
    secrets.token_hex(12),
    itertools.count(),
)  # an id is 128 bits, in order of arrival
# What a browser does with an answer that somebody lured it to: neither guess its type, nor keep it,
# nor run or frame anything of it.
SAFETY = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]


class Edge:
    """ASGI middleware: `X-Request-Id` in and out; no more than `max_body_bytes` of a body."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if USABLE_ID.fullmatch(given) else f"{PROCESS}{next(NUMBERS):08x}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = (b"x-request-id", request_id.encode())
                message["headers"] = [*message["headers"], own, *SAFETY]
            await send(message)

        declared = headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,18}", declared):
            error = BadRequest("Content-Length is not a number")
            await respond(describe(error, request_id), scope["path"])(scope, receive, send_with_id)
        elif int(declared) > self._max_body_bytes:
            problem = describe(self._too_large(), request_id)
            await respond(problem, scope["path"])(scope, receive, send_with_id)
        else:
            await self._app(scope, self._count(receive), send_with_id)

    def _count(self, receive: Receive) -> Receive:
        """The same, until a body that declared no length is beyond the limit."""
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise self._too_large()
            return message

        return receive_bounded

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body has more than {self._max_body_bytes:,} bytes; send less at once")
