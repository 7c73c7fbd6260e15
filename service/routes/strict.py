"""Strict: requests hold no name that is not known here, and a wrong one is told the nearest."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from service.errors import BadRequest

IN_QUERY = ("model", "version", "top_k", "labels")  # of the routes that take files


class Strict(BaseModel):
    """The base of queries and of documents, all of whose names must be known."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _know_all_names(cls, given: Any) -> Any:
        if isinstance(given, dict):  # pydantic would describe each unknown name
            check_names(given, cls.model_fields)
        return given


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Raises:
    BadRequest: there is a name that is not known.
    """
    names = tuple(known)
    for name in given:
        if name not in names:
            raise BadRequest(f"parameter {name[:100]} is unknown{_hint(name, names)}", name[:100])


def without_nulls(value: Any) -> Any:
    """A JSON document without the names whose value is null, in objects and in lists of them."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [without_nulls(each) for each in value]
    return value


def _hint(name: str, known: tuple[str, ...]) -> str:
    if near := get_close_matches(name[:100].lower(), known, 1):
        return f"; did you mean {near[0]}?"
    if name in IN_QUERY:
        return f" in the body; it goes into the query: ?{name}=..."
    return f"; there are: {', '.join(known)}" if known else "; there are none"
