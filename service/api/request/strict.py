"""Strict names: an unknown name in a request is refused, and the error names the nearest one."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from service.errors import BadRequest


class Strict(BaseModel):
    """Base of queries and documents. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _know_all_names(cls, given: Any) -> Any:
        if isinstance(given, dict):  # pydantic describes every unknown name
            check_names(given, cls.model_fields)
        return given


def check_names(
    given: Iterable[str], known: Collection[str], elsewhere: Collection[str] = ()
) -> None:
    """Args:
        elsewhere: names that belong in the query, not in the body.

    Raises:
        BadRequest: a name is unknown.
    """
    for name in given:
        if name in elsewhere:
            raise BadRequest(f"{name} belongs in the query, not in the body: ?{name}=...", name)
        if name not in known:
            shown = name[:100]
            near = get_close_matches(shown.lower(), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
            raise BadRequest(f"parameter {shown} is unknown; {hint}", shown)


def without_nulls(value: Any) -> Any:
    """A JSON document without null values, in objects and in lists of objects."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [without_nulls(each) for each in value]
    return value
