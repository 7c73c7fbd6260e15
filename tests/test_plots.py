"""Every picture that training draws: whole, whatever the labels are, and the same each time."""

import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from training.diagnosis import diagnose
from training.finder import Sweep
from training.loop import Epoch, Score
from training.measures import Bin
from training.plots import (
    Tile,
    draw_confusion,
    draw_curves,
    draw_reliability,
    draw_sheet,
    draw_sweep,
)

EPOCHS = (Epoch(1.0, Score(0.9, 0.5)), Epoch(0.5, Score(0.6, 0.75)), Epoch(0.4, Score(0.7, 0.7)))
DIAGNOSIS = diagnose(Score(0.1, 0.99), Score(0.6, 0.75), 0.5)
NOISE = np.random.default_rng(0).integers(256, size=(128, 128, 3), dtype=np.uint8)
SOUND = np.random.default_rng(1).normal(size=(64, 50)).astype(np.float32)


def pixels(png: bytes) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """uint8[H, W, 3]"""
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.array(picture.convert("RGB"))


def tile(shown: object, right: str = "cat", given: str = "dog") -> Tile:
    return Tile(right, given, 0.97, shown)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_confusion({"a": np.eye(3, dtype=int)}, ("x", "y", "z")),
        lambda: draw_curves(EPOCHS, 2, DIAGNOSIS),
        lambda: draw_curves((Epoch(1.0, None),), 1, None),
        lambda: draw_sweep(Sweep((1e-4, 1e-3, 1e-2), (2.0, 1.0, 3.0), 2.5e-4)),
        lambda: draw_reliability([Bin(7, 3, 0.5, 1 / 3), Bin(14, 10, 0.97, 1.0)]),
        lambda: draw_sheet([tile(NOISE), tile(SOUND), tile(None)]),
    ],
)
def test_the_same_numbers_give_the_same_bytes(draw: Callable[[], bytes]) -> None:
    first = draw()
    assert len(np.unique(pixels(first))) > 10  # something is drawn
    assert draw() == first


def test_matrices_of_any_size_stay_within_bounds() -> None:
    for classes in (2, 50, 77, 300):
        labels = [f"a label that is rather long {number}" for number in range(classes)]
        drawn = pixels(draw_confusion({"title": np.eye(classes, dtype=int)}, labels))
        assert min(drawn.shape[:2]) > 300
        assert max(drawn.shape[:2]) < 2_000


def test_matrices_stand_side_by_side() -> None:
    counts = np.eye(2, dtype=int)
    one = pixels(draw_confusion({"a": counts}, ("x", "y")))
    two = pixels(draw_confusion({"a": counts, "b": counts}, ("x", "y")))
    assert two.shape == (one.shape[0], 2 * one.shape[1], 3)


@pytest.mark.parametrize("label", ["$5", r"$\nonsense$", "{x}_^%", "", "日本", "a" * 300])
def test_any_label_can_be_drawn(label: str) -> None:
    draw_confusion({"title": np.eye(2, dtype=int)}, (label, "other"))
    draw_sheet([tile(NOISE, label, label)])


def test_labels_that_begin_alike_can_be_told_apart() -> None:
    first, second = (
        draw_confusion({"t": np.eye(2, dtype=int)}, (f"balance_not_updated_after_a_{what}", "b"))
        for what in ("cheque", "bank_transfer")
    )
    assert first != second


def test_a_sheet_grows_row_by_row() -> None:
    shapes = [pixels(draw_sheet([tile(NOISE)] * count)).shape[:2] for count in (1, 6, 7)]
    (height, width), (same, wide), (twice, as_wide) = shapes
    assert (same, wide, twice, as_wide) == (height, 6 * width, 2 * height, 6 * width)


def test_what_cannot_be_read_is_a_grey_tile() -> None:
    middle = pixels(draw_sheet([tile(None)]))[-40:-20, 40:-40].astype(int)
    assert abs(middle - 211).max() < 12  # light grey; few colours make it a little uneven


def test_a_spectrogram_stands_upright() -> None:
    low = np.zeros((64, 50), np.float32)
    low[:8] = 1  # the lowest bands, which are bright
    drawn = pixels(draw_sheet([tile(low)])).sum(axis=2, dtype=int)
    assert drawn[-12, 70] > drawn[-100, 70]


def test_who_draws_needs_no_torch() -> None:
    program = "import sys, training.plots; print('torch' in sys.modules)"
    command = [sys.executable, "-W", "ignore", "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
