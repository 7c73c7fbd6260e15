"""Answers: the documents that the routes return, in the shapes that docs/reference.md describes."""

import asyncio
import re
from collections.abc import Sequence
from typing import Literal

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from service.errors import BadRequest
from service.pipeline import Timings
from service.routes.problems import Problem
from service.settings import MOST_TIMEOUT_MS


class Label(BaseModel):
    label: str
    score: float  # a probability


class Result(BaseModel):
    """One item's answer: `labels` or `vector` where `status` is ok, else `error`."""

    index: int
    status: Literal["ok", "error"]
    labels: list[Label] | None = None
    vector: list[float] | None = None
    truncated: Literal[True] | None = None  # the model reads less than the whole input
    error: Problem | None = None


class Answer(BaseModel):
    model: str
    version: str
    results: list[Result]


class Answers(BaseModel):
    """Several models' answers to the same items, in the order in which they were asked."""

    answers: list[Answer]


class Similarity(BaseModel):
    model: str
    version: str
    similarities: list[list[float]]  # cosines, -1..1; a row for each text


def deadline_of(request: Request, default_ms: int) -> float:
    """When the answer must be there, on the event loop's clock: `X-Timeout-Ms`, or the default.

    Raises:
        BadRequest: the header is not a number of milliseconds.
    """
    given = request.headers.get("x-timeout-ms", str(default_ms))
    if not (re.fullmatch("[0-9]{1,6}", given) and 0 < int(given) <= MOST_TIMEOUT_MS):
        raise BadRequest(
            f"X-Timeout-Ms must be a whole number from 1 to {MOST_TIMEOUT_MS}", "X-Timeout-Ms"
        )
    return asyncio.get_running_loop().time() + int(given) / 1000


def respond(document: BaseModel, timings: Sequence[Timings]) -> Response:
    """The document as JSON, with the slowest item's stages in `Server-Timing` (milliseconds)."""
    response = Response(document.model_dump_json(exclude_none=True), media_type="application/json")
    if timings:
        stages = {
            "decode": max(t.decode for t in timings),
            "queue": max(t.queue for t in timings),
            "inference": max(t.infer for t in timings),
        }
        response.headers["Server-Timing"] = ", ".join(
            f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in stages.items()
        )
    return response
