"""The request log: a line for each request, or for a share of them."""

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
    """ASGI middleware: who asked what, how it ended, and where the time went.

    Never a body, a query (which may hold texts to compare with) or a header that came.
    """

    def __init__(self, app: ASGIApp, share: float) -> None:
        self._app = app
        self._share = share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or random.random() >= self._share:
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        answer: Message = {"status": 0, "headers": []}  # until there is one

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
        "path": quote(scope["path"]),  # no line breaks, whatever was sent
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
