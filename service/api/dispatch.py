"""Dispatch: calls the routes for files directly. FastAPI only documents them.

FastAPI's routing, validation and exit stacks take longer than all other Python code of a request;
docs/performance.md has the figures.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api import problems
from service.api.context import AppContext
from service.errors import BadRequest

Endpoint = Callable[[Request, AppContext, Any], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class FileRoute:
    """A route: its coroutine function and the model of its query parameters."""

    endpoint: Endpoint
    query: type[BaseModel]
    verbs: tuple[str, ...]


ROUTES: dict[str, FileRoute] = {}  # by path


class Dispatch:
    """ASGI middleware in front of FastAPI, whose `state.sensorium` it shares."""

    def __init__(self, api: FastAPI) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = ROUTES.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] not in route.verbs:
            await self._api(scope, receive, send)
            return
        scope["app"] = self._api  # as Starlette does
        request = Request(scope, receive)
        try:
            query = read_query(route.query, scope["query_string"])
            response = await route.endpoint(request, self._api.state.sensorium, query)
        except Exception as error:  # every error becomes a problem document
            response = problems.answer(request, error)
        await response(scope, receive, send)


@lru_cache(maxsize=128)  # clients repeat their queries; one can have 64 KB
def read_query(model: type[BaseModel], query: bytes) -> BaseModel:
    """The parameters of a query string. If a single parameter is repeated, its last value counts.

    Raises:
        BadRequest: a parameter is unknown, or the query is not UTF-8.
        ValidationError: a parameter has an invalid value.
    """
    values: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the query is not UTF-8: {error}") from error
    for name, value in pairs:
        field = model.model_fields.get(name)
        if field and field.annotation == list[str]:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    return model.model_validate(values)
