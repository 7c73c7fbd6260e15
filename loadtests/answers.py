"""Answers: what is wrong with one, beyond its status."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from loadtests.payloads import Payload

Field = Literal["labels", "vector"]
Result = dict[str, Any]

# Batched with others, a model's answer differs in rounding only.
TOLERANCE = 1e-3


class Wrong(Exception):
    """What is wrong with an answer, in words that do not differ from request to request."""


class Judge:
    """Knows a sound answer: the right shape, and for the same payload always the same.

    A payload's first answer is the reference for all later ones, so that a reply which reaches the
    wrong caller is found, as long as the payloads differ.
    """

    def __init__(self, field: Field) -> None:
        self._field = field
        self._known: dict[str, Result] = {}

    def judge(self, status: int, body: bytes, payloads: Sequence[Payload]) -> None:
        """Raises:
        Wrong: it is not the answer to these payloads.
        """
        document = _parse(body)
        if status != 200:
            raise Wrong(f"{status}: {document.get('detail', document)}")
        results = document.get("results")
        if not isinstance(results, list) or len(results) != len(payloads):
            raise Wrong("the answer has not one result for each payload")
        for index, (payload, result) in enumerate(zip(payloads, results, strict=True)):
            self._judge_one(index, payload, result)

    def _judge_one(self, index: int, payload: Payload, result: Result) -> None:
        if result.get("status") != "ok":
            raise Wrong(f"an item failed: {result.get('error', {}).get('detail')}")
        if result.get("index") != index:
            raise Wrong("the results are not in order")
        sound, alike = CHECKS[self._field]
        if not result.get(self._field) or not sound(result[self._field]):
            raise Wrong(f"a result has no sound {self._field}")
        if not alike(
            self._known.setdefault(payload.name, result)[self._field], result[self._field]
        ):
            raise Wrong(f"another answer than before for {payload.name}")


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        raise Wrong("the answer is not JSON") from None
    if not isinstance(document, dict):
        raise Wrong("the answer is not a JSON object")
    return document


def _labels_are_sound(labels: list[dict[str, Any]]) -> bool:
    scores = [label["score"] for label in labels]
    return scores == sorted(scores, reverse=True) and 0 <= scores[-1] <= scores[0] <= 1 + TOLERANCE


def _labels_are_alike(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    """The same best label, or one that is as good."""
    scores = {label["label"]: label["score"] for label in first}
    best = second[0]
    known = scores.get(best["label"], -1.0)
    return all(abs(score - best["score"]) <= TOLERANCE for score in (known, first[0]["score"]))


def _vector_is_sound(vector: list[float]) -> bool:
    return all(map(math.isfinite, vector))


def _vectors_are_alike(first: list[float], second: list[float]) -> bool:
    largest = max(map(abs, first))
    return len(first) == len(second) and all(
        abs(a - b) <= TOLERANCE * largest for a, b in zip(first, second, strict=True)
    )


# What must hold of one value, and between the first and a later one.
CHECKS: dict[Field, tuple[Callable[[Any], bool], Callable[[Any, Any], bool]]] = {
    "labels": (_labels_are_sound, _labels_are_alike),
    "vector": (_vector_is_sound, _vectors_are_alike),
}
