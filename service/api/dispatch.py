"""Direct: the routes that take files, called without FastAPI, which only documents them.

Its routing, its validation of parameters and its exits would take longer than all else that the
interpreter does for a request: docs/performance.md has the figures.
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
    """A coroutine function, and the model of its query's parameters."""

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
        except Exception as error:  # each has its problem document
            response = problems.answer(request, error)
        await response(scope, receive, send)


@lru_cache(maxsize=128)  # clients repeat theirs; one may have 64 KB
def read_query(model: type[BaseModel], query: bytes) -> BaseModel:
    """The parameters of a query string; where a parameter takes one value, the last one counts.

    Raises:
        BadRequest: there is none of a name, or it is not UTF-8.
        ValidationError: they are not what the model wants.
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
