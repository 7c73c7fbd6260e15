"""What a graph's numbers say."""

from typing import Any

import numpy as np
import pytest

from service.model.tasks.classify import Activation, best, probabilities, softmax
from service.model.tasks.embed import cosines

SCORES = np.array([1.0, 3.0, -2.0], np.float32)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("softmax", np.exp(SCORES) / np.exp(SCORES).sum()),
        ("log_softmax", np.exp(SCORES)),
        ("sigmoid", 1 / (1 + np.exp(-SCORES))),
        ("none", SCORES),
    ],
)
def test_scores_become_probabilities(activation: Activation, expected: Any) -> None:
    found = probabilities(SCORES.astype(np.float16), activation)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_softmax_of_large_scores_stays_finite() -> None:
    np.testing.assert_allclose(softmax(np.array([1000, 1000, -1000], np.float32)), [0.5, 0.5, 0])


def test_the_best_come_first_and_equals_keep_their_order() -> None:
    assert best(np.array([0.1, 0.4, 0.4, 0.1], np.float32), 3) == [1, 2, 0]


def test_cosines_of_every_pair() -> None:
    one, two = np.array([1, 0], np.float32), np.array([3, 3], np.float32)
    found = cosines([one, two], [one, -one, np.zeros(2, np.float32)])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found, [[1, -1, 0], [half, -half, 0]], atol=1e-6)
