"""The report page of a trained version: one HTML file that needs no network."""

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.model.specs import Kind
from service.model.tasks.task import Floats
from training.diagnosis import Diagnosis
from training.finder import Sweep
from training.layouts import Item
from training.loop import Epoch
from training.measures import (
    Indices,
    accuracy,
    calibration_error,
    confidence_bins,
    confusion,
    confusions,
    macro_f1,
    per_class,
)
from training.plots import (
    NUMBERED,
    Tile,
    draw_confusion,
    draw_curves,
    draw_reliability,
    draw_sheet,
    draw_sweep,
)
from training.thumbnails import AUDIO, hear, quote, see

MAX_MISTAKES = 24
MAX_CONFUSIONS = 20
AXES = (
    f"Time runs to the right, {AUDIO.seconds:g} s at most; frequency upwards,"
    f" to {AUDIO.sample_rate / 2_000:g} kHz."
)

Cell = str | int | float

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: 0.85rem }
th, td { padding: 0.1rem 1rem 0.1rem 0; border-bottom: 1px solid #8886; text-align: left;
  vertical-align: top }
.number { font-variant-numeric: tabular-nums; white-space: nowrap }
.scroll { max-height: 24rem; overflow-y: auto }
img { max-width: 100% }
pre { background: #8882; padding: 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere }
"""


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a model to the items of one split, at least one."""

    items: tuple[Item, ...]
    right: Indices  # int64[n], indices of the labels
    probabilities: Floats  # float32[n, classes]

    @property
    def given(self) -> Indices:
        given: Indices = self.probabilities.argmax(axis=1)
        return given

    @property
    def confidence(self) -> Floats:
        """float32[n]: the probability of the answer that was given."""
        confidence: Floats = self.probabilities.max(axis=1)
        return confidence

    @property
    def hits(self) -> NDArray[np.bool_]:
        hits: NDArray[np.bool_] = self.right == self.given
        return hits

    def mistakes(self, most: int) -> list[int]:
        """Places of wrong answers, the most confident first."""
        wrong = np.flatnonzero(~self.hits)
        order = np.argsort(-self.confidence[wrong], kind="stable")
        places: list[int] = wrong[order][:most].tolist()
        return places


@dataclass(frozen=True, slots=True)
class Report:
    """The content of the page."""

    title: str
    description: str
    modality: Kind
    labels: tuple[str, ...]
    facts: Mapping[str, str]  # network, data, licence, learning rate
    answers: Mapping[str, Answers]  # by split, at least one; the last is shown in detail
    epochs: tuple[Epoch, ...]
    best: int  # epoch, counted from 1
    diagnosis: Diagnosis | None
    sweep: Sweep | None  # None: the learning rate was set
    command: str  # that trains it again


def write_page(report: Report) -> str:
    """The page as HTML with embedded images, without scripts."""
    split, answers = list(report.answers.items())[-1]
    sections = {
        "Facts": _table((), report.facts.items()),
        "Figures": _figures(report.answers),
        "Does it fit?": _fit(report),
        "Learning rate": _sweep(report.sweep),
        f"Classes: {split}": _classes(answers, report.labels),
        f"Confusions: {split}": _confusions(answers, report.labels),
        f"Confidence: {split}": _confidence(answers),
        f"Most confident mistakes: {split}": _mistakes(answers, report.labels, report.modality),
        "Reproduce": f"<pre>{_escape(report.command)}</pre>",
    }
    body = "\n".join(
        f"<h2>{_escape(title)}</h2>\n{content}" for title, content in sections.items() if content
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_escape(report.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{_escape(report.title)}</h1>
<p>{_escape(report.description)}</p>
{body}
</body>
</html>
"""


def _figures(splits: Mapping[str, Answers]) -> str:
    head = ("", "items", "accuracy", "macro F1", "expected calibration error")
    return _table(
        head,
        (
            (
                split,
                len(answers.right),
                accuracy(answers.right, answers.given),
                macro_f1(answers.right, answers.given),
                calibration_error(answers.hits, answers.confidence),
            )
            for split, answers in splits.items()
        ),
    )


def _fit(report: Report) -> str:
    words = f"<p>{_escape(str(report.diagnosis))}</p>\n" if report.diagnosis else ""
    curves = draw_curves(report.epochs, report.best, report.diagnosis)
    return words + _image(curves, "Loss over the epochs")


def _sweep(sweep: Sweep | None) -> str:
    return _image(draw_sweep(sweep), "Loss over the learning rate") if sweep else ""


def _classes(answers: Answers, labels: Sequence[str]) -> str:
    found = per_class(answers.right, answers.given, len(labels))
    columns = (found.precision, found.recall, found.f1, found.support)
    rows = list(zip(labels, *(column.tolist() for column in columns), strict=True))
    worst_first = [rows[place] for place in np.argsort(found.f1, kind="stable")]
    head = ("class", "precision", "recall", "F1", "items")
    return f'<div class="scroll">{_table(head, worst_first)}</div>'


def _confusions(answers: Answers, labels: Sequence[str]) -> str:
    counts = confusion(answers.right, answers.given, len(labels))
    title = f"accuracy {accuracy(answers.right, answers.given):.3f}"
    matrix = "<p>One row per class. Darker cells are a greater share of its items.</p>\n" + _image(
        draw_confusion({title: counts}, labels), "Confusion matrix"
    )
    if len(labels) <= NUMBERED:
        return matrix
    commonest = confusions(counts, MAX_CONFUSIONS)
    rows = [(labels[right], labels[given], count) for right, given, count in commonest]
    return matrix + _table(("right", "answered", "times"), rows)


def _confidence(answers: Answers) -> str:
    bins = confidence_bins(answers.hits, answers.confidence)
    return (
        "<p>Calibrated answers lie on the line: of those given with 0.9, 90 % are right.</p>\n"
        + _image(draw_reliability(bins), "Accuracy over confidence")
    )


def _mistakes(answers: Answers, labels: Sequence[str], modality: Kind) -> str:
    places = answers.mistakes(MAX_MISTAKES)
    if not places:
        return "<p>There are none.</p>"
    given, confidence = answers.given, answers.confidence
    items = [answers.items[place] for place in places]
    said = [
        (labels[answers.right[place]], labels[given[place]], float(confidence[place]))
        for place in places
    ]
    if look := {"image": see, "audio": hear}.get(modality):
        tiles = [Tile(*words, look(item)) for item, words in zip(items, said, strict=True)]
        axes = f"<p>{AXES}</p>\n" if modality == "audio" else ""
        sheet = axes + _image(draw_sheet(tiles), "One item beside the other") + "\n"
        return sheet + _named(items, said)
    if modality == "text":
        quoted = [(quote(item), *words) for item, words in zip(items, said, strict=True)]
        return _named(items, quoted, "text")
    return _named(items, said)


def _named(items: Sequence[Item], said: Sequence[Sequence[Cell]], *more: str) -> str:
    """The file of each item, and the answer."""
    rows = [(item.name, *words) for item, words in zip(items, said, strict=True)]
    return _table(("file", *more, "right", "answered", "probability"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    lines = [_row("th", head)] if head else []
    lines += [_row("td", row) for row in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _row(tag: str, cells: Sequence[Cell]) -> str:
    return "<tr>" + "".join(_cell(tag, cell) for cell in cells) + "</tr>"


def _cell(tag: str, value: Cell) -> str:
    if isinstance(value, str):
        return f"<{tag}>{_escape(value)}</{tag}>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
    return f'<{tag} class="number">{"&ndash;" if math.isnan(value) else text}</{tag}>'


def _image(png: bytes, what: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<p><img alt="{_escape(what)}" src="data:image/png;base64,{data}"></p>'


def _escape(text: str) -> str:
    """As HTML; invalid UTF-8 in file names becomes question marks."""
    return html.escape(text.encode(errors="replace").decode())
