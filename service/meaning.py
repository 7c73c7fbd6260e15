"""Meaning: what a graph's numbers say, as probabilities, labels and likeness."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.manifest import Classify
from service.preprocessing import Array

Floats = NDArray[np.float32]

# all-MiniLM-L6-v2 was trained with cosines times 20 in its softmax; zero-shot scores use the same.
ZERO_SHOT_SCALE = 20.0


def probabilities(scores: Array, meaning: Classify) -> Floats:
    """float[..., classes] as the graph gives them -> float32 probabilities."""
    values = scores.astype(np.float32)
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
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Floats = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shares


def best(scores: NDArray[np.floating[Any]], count: int) -> list[int]:
    """The indices of the `count` highest scores, highest first; equal ones in their order."""
    if count < len(scores):  # sort those only that reach the place of the last one
        least = np.partition(scores, -count)[-count]
        candidates = np.flatnonzero(scores >= least)
    else:
        candidates = np.arange(len(scores))
    indices: list[int] = candidates[np.argsort(-scores[candidates], kind="stable")][:count].tolist()
    return indices


def cosines(left: Sequence[Floats], right: Sequence[Floats]) -> Floats:
    """Cosine of the angle of every pair: float32[len(left), len(right)], each in -1..1."""
    similarity: Floats = np.clip(unit(left) @ unit(right).T, -1, 1)
    return similarity


def unit(vectors: Sequence[Floats]) -> Floats:
    """The vectors' directions, each of length 1: float32[len(vectors), width]."""
    rows = np.stack(vectors)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: Floats = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return directions
