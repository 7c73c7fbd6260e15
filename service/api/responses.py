"""Answers: the documents that the routes return, in the shapes that docs/reference.md describes."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypeAlias

import orjson
from fastapi import Request
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from service.api.problems import Problem
from service.errors import BadRequest
from service.model.tasks import TASKS
from service.model.types import Result
from service.settings import MAX_TIMEOUT_MS

MAX_LABELS = 100_000  # of one answer; a request of 33 KB could ask for eight million, 360 MB


class Status(TypedDict):
    """One item: the answer's fields where `status` is ok, else `error`."""

    index: int
    filename: NotRequired[str]  # of a form's file, as it was sent
    status: Literal["ok", "error"]
    truncated: NotRequired[Literal[True]]  # the model reads less than the whole input
    error: NotRequired[Problem]


# The registry is known only at run time, so a type checker sees a mapping.
if TYPE_CHECKING:
    ItemResult: TypeAlias = dict[str, Any]
else:
    fields = {name: type_ for task in TASKS.values() for name, type_ in task.answer_fields.items()}
    Found = TypedDict("Found", fields, total=False)

    class ItemResult(Status, Found):
        """One item's result, with what its task found."""


class Answer(TypedDict):
    model: str
    version: str
    results: list[ItemResult]


class Answers(TypedDict):
    """Several models' answers to the same items, in the order in which they were asked."""

    answers: list[Answer]


class Similarity(TypedDict):
    model: str
    version: str
    similarities: list[list[float]]  # cosines, -1..1; a row for each text


def deadline_of(request: Request, default_ms: int) -> float:
    """When the answer must be there, on the event loop's clock: `X-Timeout-Ms`, or the default.

    Raises:
        BadRequest: the header is not a number of milliseconds.
    """
    milliseconds, given = default_ms, request.headers.get("x-timeout-ms")
    if given is not None:
        if not (re.fullmatch("[0-9]{1,6}", given) and 0 < int(given) <= MAX_TIMEOUT_MS):
            raise BadRequest(
                f"X-Timeout-Ms must be a whole number from 1 to {MAX_TIMEOUT_MS}", "X-Timeout-Ms"
            )
        milliseconds = int(given)
    arrived = request.scope.get("state", {}).get("arrived")
    if arrived is None:  # it came past the edge
        arrived = asyncio.get_running_loop().time()
    return float(arrived) + milliseconds / 1000


def respond(document: Mapping[str, Any], results: Sequence[Result]) -> Response:
    """The document as JSON, with the slowest item's stages in `Server-Timing` (milliseconds).

    Arrays become lists; a float32 has as many digits as distinguish it from its neighbours.
    """
    headers = {}
    if results:
        decode = max(result.timings.decode for result in results)
        queue = max(result.timings.queue for result in results)
        infer = max(result.timings.infer for result in results)
        headers["Server-Timing"] = (
            f"decode;dur={decode * 1000:.2f}, queue;dur={queue * 1000:.2f},"
            f" inference;dur={infer * 1000:.2f}"
        )
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, headers=headers, media_type="application/json")
