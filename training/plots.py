"""Plots: every image that training draws, as PNG; the same numbers give the same bytes."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from service.runtime.tensors import Array
from training.measures import BINS, Bin, Counts

if TYPE_CHECKING:  # who evaluates draws, too, and needs no PyTorch
    from training.diagnosis import Diagnosis
    from training.finder import Sweep
    from training.loop import Epoch

DPI = 100
LABELLED, NUMBERED = 100, 50  # classes: with more, names and then numbers lie over each other
CELL, NARROWEST, WIDEST = 0.4, 3.0, 14.0  # inches: of a class, and of a confusion matrix
LETTER = 0.07  # inches: the width of one, about
LONGEST, TILE_LONGEST = 24, 18  # letters of a label, and of one above a tile
COLUMNS = 6  # of tiles
TILE, GAP, CAPTION = 1.5, 0.08, 0.34  # inches: side, space between, height of two lines above


@dataclass(frozen=True, slots=True)
class Tile:
    """A small image with what is said of it."""

    right: str
    given: str
    confidence: float
    pixels: Array | None  # uint8[H, W, 3], or float32[bands, frames]; None: cannot be read


def draw_confusion(matrices: Mapping[str, Counts], labels: Sequence[str]) -> bytes:
    """Confusion matrices side by side, by their titles; each row's shares sum to 1."""
    names = [_shorten(label, LONGEST) for label in labels]
    side = min(WIDEST, max(NARROWEST, CELL * len(names)))
    margin = 0.8 + LETTER * max(map(len, names)) * (len(names) <= LABELLED)
    figure = Figure(
        figsize=(len(matrices) * (side + margin), side + margin + 0.3),
        dpi=DPI,
        layout="constrained",
    )
    for axes, (title, counts) in zip(
        figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True
    ):
        # The root of the shares, so that a rare mistake can be seen.
        shades = np.sqrt(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)))
        axes.imshow(shades, cmap="Blues", vmin=0, vmax=1)
        axes.set(title=title, xlabel="answered", ylabel="right", xticks=[], yticks=[])
        size = min(10.0, 50 * side / len(names))
        if len(names) <= LABELLED:
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
            axes.set_yticks(range(len(names)), names, fontsize=size)
        if len(names) <= NUMBERED:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    ink = "white" if shades[row, column] > 0.6 else "black"
                    axes.text(
                        column, row, str(count), ha="center", va="center", color=ink, fontsize=8
                    )
    return _png(figure)


def draw_curves(epochs: "Sequence[Epoch]", best: int, diagnosis: "Diagnosis | None") -> bytes:
    """Training and validation loss over the epochs, the best one marked, and the gap.

    Args:
        best: the epoch whose weights were kept, counted from 1.
    """
    figure = Figure(figsize=(8, 4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    counted = range(1, len(epochs) + 1)
    taught = [epoch.loss for epoch in epochs]
    axes.plot(counted, taught, marker=".", label="training, as it was taught")
    held_out = [(n, e.valid.loss) for n, e in zip(counted, epochs, strict=True) if e.valid]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), marker=".", label="validation")
    axes.axvline(best, linestyle=":", color="grey", label=f"kept: epoch {best}")
    axes.set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    if diagnosis:
        gap = [diagnosis.known.loss, diagnosis.new.loss]
        axes.plot([best, best], gap, "k_-", label="gap between known and new data")
        axes.set_title(f"the network {diagnosis.verdict}")
    axes.legend()
    return _png(figure)


def draw_sweep(sweep: "Sweep") -> bytes:
    """The loss at each learning rate, and the rate that was chosen."""
    figure = Figure(figsize=(8, 3.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.semilogx(sweep.rates, sweep.losses)
    axes.axvline(sweep.chosen, linestyle=":", color="tab:red", label=f"chosen: {sweep.chosen:g}")
    axes.set(xlabel="learning rate", ylabel="loss, running mean")
    axes.legend()
    return _png(figure)


def draw_reliability(bins: Sequence[Bin]) -> bytes:
    """How often answers of each confidence are right, and how many there are."""
    figure = Figure(figsize=(6, 6), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middles = [(b.number + 0.5) / BINS for b in bins]
    above.bar(middles, [b.accuracy for b in bins], 0.9 / BINS, color="tab:blue", alpha=0.4)
    above.plot([b.confidence for b in bins], [b.accuracy for b in bins], "o", label="answers")
    above.plot([0, 1], [0, 1], ":", color="grey", label="honest: as often right as it says")
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    above.legend()
    bars = below.bar(middles, [b.items for b in bins], 0.9 / BINS, color="grey")
    below.bar_label(bars, fontsize=7)
    below.set(xlabel="confidence", ylabel="items")
    below.margins(y=0.25)
    return _png(figure)


def draw_sheet(tiles: Sequence[Tile]) -> bytes:
    """One small image beside the other, each under its right label and the answer."""
    columns = min(COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width, height = columns * TILE, rows * (TILE + CAPTION)
    side = TILE - GAP
    figure = Figure(figsize=(width, height), dpi=DPI)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        bottom = height - (row + 1) * (TILE + CAPTION)
        axes = figure.add_axes(
            (
                (column * TILE + GAP / 2) / width,
                (bottom + GAP / 2) / height,
                side / width,
                side / height,
            )
        )
        _draw_tile(axes, tile)
    return _reduce_colours(_png(figure))


def _draw_tile(axes: Axes, tile: Tile) -> None:
    axes.set(xticks=[], yticks=[])
    caption = (
        f"{_shorten(tile.right, TILE_LONGEST)}\n"
        f"→ {_shorten(tile.given, TILE_LONGEST)} {tile.confidence:.2f}"
    )
    axes.set_title(caption, fontsize=7, loc="left", pad=3)
    if tile.pixels is None:
        axes.set_facecolor("lightgrey")
        axes.text(0.5, 0.5, "cannot be read", ha="center", fontsize=7, transform=axes.transAxes)
    elif tile.pixels.ndim == 2:
        axes.imshow(tile.pixels, origin="lower", aspect="auto")
    else:
        axes.imshow(tile.pixels)


def _shorten(label: str, longest: int) -> str:
    """For a plot, where labels have little room, and where dollars would make them formulas."""
    if len(label) > longest:
        end = longest // 3  # labels often begin alike
        label = f"{label[: longest - end - 1]}…{label[-end:]}"
    return label.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Labels may be in a script that the font lacks: boxes stand for it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _reduce_colours(png: bytes) -> bytes:
    """The same image in 256 colours: a third of the bytes, where there are photographs."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        colours = image.convert("RGB")
    palette = colours.quantize(256, Image.Quantize.FASTOCTREE)
    colours.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(file, "PNG")
    return file.getvalue()
