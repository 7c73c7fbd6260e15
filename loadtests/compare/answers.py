"""Answers: what a server says must be what the model says."""

import http.client
import json
import math
from collections.abc import Sequence

from loadtests.compare.dialects import Answer, Body, Dialect
from loadtests.compare.works import Kind

MIN_COSINE = 0.999
TIE = (
    0.05  # two labels this near in the reference are both right: decoders differ by a level or two
)
ANSWER_SECONDS = 60.0


class Disagreement(Exception):
    """A server's answer is not the reference's."""


class NoAnswer(Exception):
    """A server refused, or could not be reached."""


def ask(port: int, dialect: Dialect, kind: Kind, payload: bytes) -> Answer:
    """One answer of the server on that port.

    Raises:
        NoAnswer: with the reason.
    """
    content = fetch(port, "POST", dialect.paths[kind], dialect.encode(kind, payload))
    return dialect.read(json.loads(content))


def fetch(port: int, verb: str, path: str, body: Body | None = None) -> bytes:
    """What the server on that port says.

    Raises:
        NoAnswer: with the reason.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        headers = {"Content-Type": body.content_type} if body else {}
        connection.request(verb, path, body.content if body else None, headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(repr(error)) from error
    finally:
        connection.close()
    if response.status != 200:
        raise NoAnswer(f"{response.status}: {content[:300].decode(errors='replace')}")
    return content


def check(answer: Answer, reference: Answer) -> None:
    """Raises:
    Disagreement: another label, or a vector that points elsewhere.
    """
    if "vector" in reference:
        likeness = cosine(answer["vector"], reference["vector"])
        if not likeness > MIN_COSINE:
            raise Disagreement(f"the cosine with the reference is {likeness:.4f}")
        return
    scores = {label["label"]: label["score"] for label in reference["labels"]}
    best = answer["labels"][0]["label"]
    if scores.get(best, 0.0) < max(scores.values()) - TIE:
        raise Disagreement(f"it says {best}, the reference {max(scores, key=scores.__getitem__)}")


def cosine(left: Sequence[float], right: Sequence[float]) -> float:
    if len(left) != len(right):
        raise Disagreement(f"a vector of {len(left)} numbers, not {len(right)}")
    product = sum(a * b for a, b in zip(left, right, strict=True))
    return product / math.hypot(*left) / math.hypot(*right)
