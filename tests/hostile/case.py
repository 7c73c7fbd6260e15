"""A case: one request that no well-meaning client sends, and which answers to it are right."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PROBLEM = "application/problem+json"

OK = frozenset({200})
BAD = frozenset({400})
TOO_LARGE = frozenset({413})
UNREADABLE = frozenset({422})
REFUSED = BAD | TOO_LARGE | UNREADABLE
ANY = OK | REFUSED  # chance decides whether it can still be read


@dataclass(frozen=True, slots=True)
class File:
    """A picture, a recording or a text with something wrong or odd about it."""

    name: str
    content: bytes
    accepted: frozenset[int]  # 200 where it is odd, and valid all the same


@dataclass(frozen=True, slots=True)
class Case:
    """One request, byte by byte, and the statuses that are right."""

    name: str
    message: bytes  # HTTP/1.1
    accepted: frozenset[int]
    good_items: int = 0  # so many good ones stand before the hostile item, and get their answers
    is_http: bool = True  # else the server's parser answers, which knows no problem documents

    def complaint(self, status: int, headers: Mapping[str, str], body: bytes) -> str | None:
        """What is wrong with this answer; None where nothing is.

        Args:
            headers: names in lower case.
        """
        if status == 200 and self.good_items:
            return self._complaint_of_items(_results(body))
        if status not in self.accepted:
            return f"{status}, not one of {sorted(self.accepted)}: {body[:200]!r}"
        if status == 200:
            return _complaint_of_content(headers.get("content-type", ""), body)
        return _complaint_of_problem(status, headers, body) if self.is_http else None

    def _complaint_of_items(self, results: list[dict[str, Any]]) -> str | None:
        if len(results) != self.good_items + 1:
            return f"{len(results)} results"
        *good, hostile = results
        if any(result.get("status") != "ok" for result in good):
            return "a good item suffered"
        status = 200 if hostile.get("status") == "ok" else hostile["error"]["status"]
        if status not in self.accepted:
            return f"the item's status is {status}, not one of {sorted(self.accepted)}"
        return None


def request(
    name: str,
    path: str,
    body: bytes,
    accepted: frozenset[int],
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    good_items: int = 0,
) -> Case:
    """A well-formed request, with headers in lower case.

    Content-Length is the body's, unless a header says how long it is.
    """
    given = dict(headers or {})
    if not {"content-length", "transfer-encoding"} & set(given):
        given["content-length"] = str(len(body))
    lines = [f"{method} {path} HTTP/1.1", "host: sensorium"]
    lines += [f"{header}: {value}" for header, value in given.items()]
    head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
    return Case(name, head + body, accepted, good_items)


def _results(body: bytes) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads(body)["results"]
    return results


def _complaint_of_content(content_type: str, body: bytes) -> str | None:
    """Numbers that are none have no place in an answer."""
    if content_type != "application/json":
        return None
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except ValueError as error:
        return f"200 with a body that is not JSON: {error}"
    return None if _is_finite(document) else "200 with a number that is infinite"


def _complaint_of_problem(status: int, headers: Mapping[str, str], body: bytes) -> str | None:
    if headers.get("content-type") != PROBLEM:
        return f"{status} without a problem document: {headers.get('content-type')} {body[:200]!r}"
    document = json.loads(body)
    if document.get("status") != status or not document.get("code"):
        return f"{status} with a problem document of another status, or without a code"
    if document.get("request_id") != headers.get("x-request-id"):
        return f"{status} with a problem document of another request"
    return None


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"it holds {constant}")


def _is_finite(document: object) -> bool:
    match document:
        case dict():
            return all(map(_is_finite, document.values()))
        case list():
            return all(map(_is_finite, document))
        case float():
            return math.isfinite(document)
    return True
