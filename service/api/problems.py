"""Problems: one table turns an error into a status, a code and a document (RFC 9457)."""

import logging
import math
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from service import errors, metrics

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_RETRY_AFTER = 3600.0  # seconds

# error -> status, code, title; a subclass goes before its base class
TABLE: dict[type[Exception], tuple[int, str, str]] = {
    errors.BadRequest: (400, "bad_request", "Bad request"),
    errors.Unsupported: (400, "unsupported", "Not supported by the model"),
    errors.Unauthenticated: (401, "unauthenticated", "Authentication required"),
    errors.Forbidden: (403, "forbidden", "The key lacks the required scope"),
    errors.NotFound: (404, "not_found", "Not found"),
    errors.BodyTimeout: (408, "body_timeout", "The request did not arrive in time"),
    errors.TooLarge: (413, "too_large", "The input exceeds a limit"),
    errors.UnknownEncoding: (415, "unknown_encoding", "The encoding is not supported"),
    errors.UnknownMediaType: (415, "unknown_media_type", "The media type is not supported"),
    errors.Unreadable: (422, "unreadable", "The input cannot be decoded"),
    errors.TooManyRequests: (429, "too_many_requests", "Rate limit exceeded"),
    errors.CallerGone: (499, "caller_gone", "The client disconnected"),
    errors.QueueFull: (503, "queue_full", "The service is overloaded"),
    errors.StateUnusable: (503, "state_unusable", "The state folder is not usable"),
    errors.NotReady: (503, "not_ready", "The model is not ready"),
    errors.DeadlineExceeded: (504, "deadline_exceeded", "Deadline exceeded"),
    errors.BadModel: (422, "model_refused", "The model was refused"),
    errors.BatchFailed: (500, "inference_failed", "The model failed on this input"),
    Exception: (500, "internal", "Internal error"),
}


class OpenAIError(TypedDict):
    """The same problem in OpenAI's format."""

    message: str
    type: str
    param: str | None
    code: str


class Problem(TypedDict):
    """Why there is no answer, and what to change."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    error: OpenAIError


class InferenceError(TypedDict):
    """The same problem in the format of the Open Inference Protocol, under /v2."""

    error: str


def _responses(media_type: str, shape: type) -> dict[int | str, dict[str, Any]]:
    """The problems that every route can answer, for OpenAPI.

    A reference by name saves FastAPI from building one validator per route and status.
    """
    schema = {"$ref": f"#/components/schemas/{shape.__name__}"}
    return {
        status: {"description": title, "content": {media_type: {"schema": schema}}}
        for status, _, title in TABLE.values()
    }


RESPONSES = _responses(MEDIA_TYPE, Problem)
V2_RESPONSES = _responses("application/json", InferenceError)


def code_of(error: Exception) -> str:
    """The code of an error, for clients and metrics."""
    return _row(error)[1]


def describe(error: Exception, request_id: str) -> Problem:
    """The problem document of an error."""
    status, code, title = _row(error)
    known = isinstance(error, errors.SensoriumError)
    detail = str(error) if known else "unexpected error; see the service's log for this request id"
    return _problem(status, code, title, detail, request_id, getattr(error, "param", None))


def respond(problem: Problem, path: str, retry_after: float | None = None) -> Response:
    """The response with this problem, in the format of the path's protocol."""
    metrics.REFUSED.labels(problem["code"]).inc()
    status = problem["status"]
    if path.startswith("/v2"):
        document = InferenceError(error=problem["detail"])
        response = Response(orjson.dumps(document), status, media_type="application/json")
    else:
        response = Response(orjson.dumps(problem), status, media_type=MEDIA_TYPE)
    if retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(min(retry_after, MAX_RETRY_AFTER))))
    if problem["status"] == 408:
        response.headers["Connection"] = "close"  # the rest of the body is not read
    if problem["status"] == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def install(api: FastAPI) -> None:
    """Answer every error of the routes with a problem document."""
    api.add_exception_handler(errors.SensoriumError, _answer)
    api.add_exception_handler(RequestValidationError, _answer)
    api.add_exception_handler(HTTPException, _answer_unknown_route)
    api.add_exception_handler(Exception, _answer)


def answer(request: Request, error: Exception) -> Response:
    """The response to a request that failed with this error."""
    if isinstance(error, RequestValidationError | ValidationError):
        first = first_error(error) if isinstance(error, ValidationError) else error.errors()[0]
        param = str(first["loc"][-1])[:100] if first["loc"] else "body"
        error = errors.BadRequest(f"parameter {param}: {first['msg']}", param)
    if not isinstance(error, errors.SensoriumError):
        logger.error("request %s failed", request.state.request_id, exc_info=error)
    problem = describe(error, request.state.request_id)
    return respond(problem, request.scope["path"], getattr(error, "retry_after", None))


def first_error(error: ValidationError) -> ErrorDetails:
    """The first error of many, without a copy of the input."""
    return error.errors(include_url=False, include_context=False, include_input=False)[0]


async def _answer(request: Request, error: Exception) -> Response:
    return answer(request, error)


async def _answer_unknown_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "bad_request")
    path = request.scope["path"]
    detail = f"{request.method} {path}: {error.detail}; /openapi.json lists the routes"
    problem = _problem(status, code, error.detail, detail, request.state.request_id)
    response = respond(problem, path)
    response.headers.update(error.headers or {})
    return response


def _row(error: Exception) -> tuple[int, str, str]:
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def _problem(
    status: int, code: str, title: str, detail: str, request_id: str, param: str | None = None
) -> Problem:
    kind = "invalid_request_error" if status < 500 else "server_error"
    # Quoted input can hold a lone surrogate, which JSON cannot represent.
    detail = detail.encode(errors="replace").decode()
    param = param and param.encode(errors="replace").decode()
    return Problem(
        type=f"urn:sensorium:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        error=OpenAIError(message=detail, type=kind, param=param, code=code),
    )
