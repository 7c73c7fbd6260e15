"""Answers: what the service says of one item."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Label:
    label: str
    score: float  # a probability


@dataclass(frozen=True, slots=True)
class Classification:
    """Labels, the likeliest first."""

    model: str
    version: str
    labels: tuple[Label, ...]
    truncated: bool  # the model reads less than the whole text or audio


@dataclass(frozen=True, slots=True)
class Embedding:
    """A vector: near meanings lie near."""

    model: str
    version: str
    vector: tuple[float, ...]
    truncated: bool  # the model reads less than the whole text or audio


def read_classification(document: Mapping[str, Any]) -> Classification:
    """The answer of `/v1/.../classify` to one item."""
    [result] = document["results"]
    labels = tuple(Label(each["label"], each["score"]) for each in result["labels"])
    return Classification(
        document["model"], document["version"], labels, result.get("truncated", False)
    )


def read_embedding(document: Mapping[str, Any]) -> Embedding:
    """The answer of `/v1/.../embed` to one item."""
    [result] = document["results"]
    return Embedding(
        document["model"],
        document["version"],
        tuple(result["vector"]),
        result.get("truncated", False),
    )
