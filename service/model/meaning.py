"""Meaning: what a graph's numbers say, as probabilities, labels and likeness."""

import codecs
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BatchFailed
from service.model.manifest import Classify, Embed
from service.runtime.tensors import Array

Floats = NDArray[np.float32]

# all-MiniLM-L6-v2 was trained with cosines times 20 in its softmax; zero-shot scores use the same.
ZERO_SHOT_SCALE = 20.0
ROUNDING = 0.01  # how far beyond 0 and 1 a probability of a graph in int8 or fp16 may lie


def read_labels(content: bytes) -> tuple[str, ...]:
    """One label a line, in UTF-8, or in UTF-16 with a byte order mark. Blank lines may follow.

    Raises:
        ValueError: it is in another encoding.
    """
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if utf_16 else "utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds NUL characters")
    lines = re.split(r"\r\n|\r|\n", text)
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(lines)


def interpret(values: Array, meaning: Classify | Embed) -> Floats:
    """One row of a graph's output as float32[classes] probabilities, or a float32[width] vector.

    Raises:
        BatchFailed: it holds NaN, infinity, or what is no probability.
    """
    if isinstance(meaning, Embed):
        numbers = values.astype(np.float32)
        if not np.isfinite(numbers).all():
            raise BatchFailed(f"output {meaning.output} holds NaN or infinity for this input")
        return numbers
    scores = probabilities(values, meaning)
    lowest, highest = np.minimum.reduce(scores), np.maximum.reduce(scores)
    if not (lowest >= -ROUNDING and highest <= 1 + ROUNDING):  # nor a NaN, which is no number
        outside = f"{lowest if lowest < 0 else highest:.3g}, which is no probability,"
        found = outside if np.isfinite([lowest, highest]).all() else "NaN or infinity"
        raise BatchFailed(
            f"output {meaning.output} holds {found} for this input,"
            f" after activation {meaning.activation}"
        )
    return scores.clip(0, 1) if lowest < 0 or highest > 1 else scores


def probabilities(scores: Array, meaning: Classify) -> Floats:
    """float[..., classes] as the graph gives them -> float32 probabilities."""
    values = scores.astype(np.float32)
    with np.errstate(all="ignore"):  # `interpret` refuses what is not finite
        match meaning.activation:
            case "softmax":
                return softmax(values)
            case "log_softmax":
                return np.exp(values)
            case "sigmoid":
                return (1 / (1 + np.exp(-values))).astype(np.float32)
            case "none":
                return values


def softmax(values: Floats) -> Floats:
    """float32[..., classes] -> the same shape, each row's sum 1."""
    highest: Floats = np.maximum.reduce(values, axis=-1, keepdims=True)
    exponentials = np.exp(values - highest)
    shares: Floats = exponentials / np.add.reduce(exponentials, axis=-1, keepdims=True)
    return shares


def best(scores: NDArray[np.floating[Any]], count: int) -> list[int]:
    """The indices of the `count` highest scores, highest first; equal ones in their order."""
    if count < len(scores):  # sort those only that reach the place of the last one
        least = np.partition(scores, -count)[-count]
        candidates = np.flatnonzero(scores >= least)
    else:
        candidates = np.arange(len(scores))
    indices: list[int] = candidates[(-scores[candidates]).argsort(kind="stable")][:count].tolist()
    return indices


def cosines(left: Sequence[Floats], right: Sequence[Floats]) -> Floats:
    """Cosine of the angle of every pair: float32[len(left), len(right)], each in -1..1."""
    similarity: Floats = np.clip(unit(left) @ unit(right).T, -1, 1)
    return similarity


def unit(vectors: Sequence[Floats]) -> Floats:
    """The vectors' directions, each of length 1: float32[len(vectors), width]."""
    rows = np.stack(vectors).astype(np.float64)  # squares of large float32 overflow
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: Floats = (rows / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return directions
