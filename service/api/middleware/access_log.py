"""The access log: one line per request, or for a share of the requests."""

import logging
import random
import re
from time import perf_counter
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

STAGE = re.compile(r"(\w+);dur=([0-9.]+)")  # of Server-Timing, in milliseconds


class AccessLog:
    """ASGI middleware: logs the path, status, key name and stage times of a request.

    It never logs a body, a query (which can hold texts), or a header of the request.
    """

    def __init__(self, app: ASGIApp, share: float) -> None:
        self._app = app
        self._share = share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or random.random() >= self._share:
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        answer: Message = {"status": 0, "headers": []}  # until the response starts

        async def send_and_note(message: Message) -> None:
            nonlocal answer
            if message["type"] == "http.response.start":
                answer = message
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            fields = _describe(scope, answer, (perf_counter() - begun) * 1000)
            logger.info(" ".join(f"{name}=%({name})s" for name in fields), fields)


def _describe(scope: Scope, answer: Message, milliseconds: float) -> dict[str, Any]:
    state = scope["state"]
    fields: dict[str, Any] = {
        "request_id": state["request_id"],
        "method": scope["method"],
        "path": quote(scope["path"]),  # quoted, so that it holds no line break
        "status": answer["status"],
        "total_ms": round(milliseconds, 2),
    }
    if "key" in state:
        fields["key"] = state["key"]
    if "manifests" in state:
        manifests = state["manifests"]
        fields["model"] = ",".join(f"{manifest.name}:{manifest.version}" for manifest in manifests)
    stages = STAGE.findall(Headers(raw=answer["headers"]).get("server-timing", ""))
    return fields | {f"{stage}_ms": float(duration) for stage, duration in stages}
