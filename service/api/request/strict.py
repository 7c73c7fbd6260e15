"""Strict: requests hold no name that is not known here, and a wrong one is told the nearest."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from service.errors import BadRequest


class Strict(BaseModel):
    """The base of queries and of documents, all of whose names must be known."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _know_all_names(cls, given: Any) -> Any:
        if isinstance(given, dict):  # pydantic would describe each unknown name
            check_names(given, cls.model_fields)
        return given


def check_names(
    given: Iterable[str], known: Collection[str], elsewhere: Collection[str] = ()
) -> None:
    """Args:
        elsewhere: names that belong to the query, not to a body.

    Raises:
        BadRequest: there is a name that is not known.
    """
    for name in given:
        if name in elsewhere:
            raise BadRequest(f"{name} goes into the query, not into the body: ?{name}=...", name)
        if name not in known:
            shown = name[:100]
            near = get_close_matches(shown.lower(), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known) or '-'}"
            raise BadRequest(f"parameter {shown} is unknown; {hint}", shown)


def without_nulls(value: Any) -> Any:
    """A JSON document without the names whose value is null, in objects and in lists of them."""
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [without_nulls(each) for each in value]
    return value
