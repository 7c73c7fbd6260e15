"""The page of a trained version: complete, escaped, small, and the same each time."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.model.specs import Kind
from tests.conftest import tone
from training.diagnosis import diagnose
from training.finder import Sweep
from training.layouts import Item
from training.loop import Epoch, Score
from training.page import MAX_MISTAKES, Answers, Report, write_page

EVIL = '<script>alert("x")</script>'
ROWS = re.compile(r"<tr>(.*?)</tr>")
CELLS = re.compile(r"<t[dh][^>]*>(.*?)</t[dh]>")


def text(number: int) -> Item:
    return Item(f"texts.csv, row {number}", f"the text of row {number}", "")


def picture(folder: Path, number: int) -> Item:
    """The worst there is to compress."""
    path = folder / f"{number}.png"
    noise = np.random.default_rng(number).integers(256, size=(200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return Item(str(path), path, "")


def sure(classes: int, right: list[int], given: list[int], confidence: list[float]) -> Answers:
    """Answers to texts; what is left of the confidence is spread over the other classes."""
    rows = np.repeat((1 - np.array([confidence]).T) / (classes - 1), classes, axis=1)
    rows[range(len(given)), given] = confidence
    items = tuple(text(number) for number in range(len(right)))
    return Answers(items, np.array(right), rows.astype(np.float32))


def guesses(classes: int, count: int) -> Answers:
    """All wrong."""
    right = [number % classes for number in range(count)]
    return sure(classes, right, [(n + 1) % classes for n in right], [0.8] * count)


def report(
    answers: Answers, labels: tuple[str, ...] = ("cat", "dog"), modality: Kind = "text"
) -> Report:
    return Report(
        title="pets 1",
        description="Says of a text which pet it is about.",
        modality=modality,
        labels=labels,
        facts={"licence": "CC0", "seconds": "12"},
        answers={"validation": guesses(len(labels), 4), "test": answers},
        epochs=(Epoch(1.0, Score(0.9, 0.5)), Epoch(0.5, Score(0.6, 0.75))),
        best=2,
        diagnosis=diagnose(Score(0.1, 0.99), Score(0.6, 0.75), 0.5, {"--dropout"}),
        sweep=Sweep((1e-4, 1e-3, 1e-2), (2.0, 1.0, 3.0), 2.5e-4),
        command="python -m training fit text --data 'my pets.csv'",
    )


def pictures_of(page: str) -> list[Image.Image]:
    sources = re.findall(r'<img[^>]* src="data:image/png;base64,([^"]*)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def rows_of(page: str, title: str) -> list[list[str]]:
    """The table under a heading that begins so."""
    section = page.split(f"<h2>{title}")[1].split("<h2>")[0]
    return [CELLS.findall(row) for row in ROWS.findall(section)]


def test_the_page_says_all_that_is_known() -> None:
    page = write_page(report(sure(2, [0, 0, 1, 1], [0, 0, 1, 0], [0.9, 0.9, 0.6, 0.6])))
    assert rows_of(page, "Facts") == [["licence", "CC0"], ["seconds", "12"]]
    assert rows_of(page, "Figures")[1:] == [
        ["validation", "4", "0.000", "0.000", "0.800"],
        ["test", "4", "0.750", "0.733", "0.100"],
    ]
    assert "get more or more varied data; strengthen dropout and weight decay (--dropout)" in page
    assert "python -m training fit text --data &#x27;my pets.csv&#x27;" in page
    curves, sweep, matrix, reliability = pictures_of(page)
    assert {drawn.format for drawn in (curves, sweep, matrix, reliability)} == {"PNG"}


def test_nothing_comes_from_elsewhere() -> None:
    page = write_page(report(guesses(2, 4)))
    assert "<script" not in page
    assert "http:" not in page
    assert "https:" not in page
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)', page))


@pytest.mark.parametrize("modality", ["text", "multimodal"])
def test_what_users_wrote_is_shown_and_not_run(modality: Kind) -> None:
    answers = guesses(2, 2)
    answers = replace(answers, items=(Item(EVIL, EVIL, EVIL), Item("b", "b", "b")))
    evil = report(answers, (EVIL, "<b>"), modality)
    evil = replace(
        evil, title=EVIL, description=EVIL, facts={EVIL: EVIL}, command=EVIL,
        answers={EVIL: answers},
    )  # fmt: skip
    page = write_page(evil)
    assert "<script" not in page
    assert "<b>" not in page
    # Twice in the facts, thrice as a heading's split and once as a figure's, and so on.
    assert page.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;") >= 12


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    answers = replace(guesses(2, 3), items=tuple(picture(tmp_path, n) for n in range(3)))
    told = report(answers, modality="image")
    assert write_page(told) == write_page(told)


def test_a_page_of_many_classes_and_pictures_is_small(tmp_path: Path) -> None:
    labels = tuple(f"a_label_of_common_length_{number}" for number in range(77))
    answers = guesses(77, 300)
    items = tuple(picture(tmp_path, number) for number in range(MAX_MISTAKES))
    answers = replace(answers, items=items + answers.items[len(items) :])
    page = write_page(report(answers, labels, "image"))
    assert len(pictures_of(page)) == 5
    assert len(page) < 1_500_000


def test_the_worst_class_comes_first_and_what_is_unknown_is_left_open() -> None:
    labels = ("good", "bad", "unseen")
    page = write_page(report(sure(3, [0, 0, 1, 1], [0, 0, 0, 1], [0.9] * 4), labels))
    assert rows_of(page, "Classes: test")[1:] == [
        ["bad", "1.000", "0.500", "0.667", "2"],
        ["good", "0.667", "1.000", "0.800", "2"],
        ["unseen", "&ndash;", "&ndash;", "&ndash;", "0"],
    ]


def test_the_surest_mistakes_come_first() -> None:
    answers = sure(2, [0, 1, 1, 0], [1, 0, 1, 1], [0.6, 0.9, 0.99, 0.7])
    assert rows_of(write_page(report(answers)), "Most confident mistakes: test") == [
        ["file", "text", "right", "answered", "probability"],
        ["texts.csv, row 1", "the text of row 1", "dog", "cat", "0.900"],
        ["texts.csv, row 3", "the text of row 3", "cat", "dog", "0.700"],
        ["texts.csv, row 0", "the text of row 0", "cat", "dog", "0.600"],
    ]


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_mistakes_that_are_drawn_are_named_by_their_files(tmp_path: Path, modality: Kind) -> None:
    items = (picture(tmp_path, 0), picture(tmp_path, 1))
    page = write_page(report(replace(guesses(2, 2), items=items), modality=modality))
    assert rows_of(page, "Most confident mistakes") == [
        ["file", "right", "answered", "probability"],
        [str(tmp_path / "0.png"), "cat", "dog", "0.800"],
        [str(tmp_path / "1.png"), "dog", "cat", "0.800"],
    ]


def test_no_more_mistakes_are_shown_than_can_be_looked_at() -> None:
    page = write_page(report(guesses(2, 100)))
    assert len(rows_of(page, "Most confident mistakes")) == 1 + MAX_MISTAKES


def test_items_of_several_modalities_are_named() -> None:
    page = write_page(report(guesses(2, 2), modality="multimodal"))
    assert rows_of(page, "Most confident mistakes")[1] == [
        "texts.csv, row 0",
        "cat",
        "dog",
        "0.800",
    ]


def test_a_name_that_is_no_text_can_be_written() -> None:
    items = (Item("caf\udce9.png", "", ""), text(1))
    page = write_page(report(replace(guesses(2, 2), items=items), modality="multimodal"))
    assert "caf?.png" in page.encode().decode()


def test_a_file_that_cannot_be_read_does_not_stop_the_page(tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    sound.write_bytes(tone(0.5))
    items = (Item("a", sound, ""), Item("b", tmp_path / "lost.wav", ""))
    modalities: tuple[Kind, ...] = ("image", "audio", "text")
    for modality in modalities:
        page = write_page(report(replace(guesses(2, 2), items=items), modality=modality))
        assert len(pictures_of(page)) == (4 if modality == "text" else 5)


def test_the_commonest_confusions_of_very_many_classes_are_listed() -> None:
    labels = tuple(f"label {number}" for number in range(60))
    answers = sure(60, [7, 7, 3, 1], [5, 5, 4, 1], [0.9] * 4)
    assert rows_of(write_page(report(answers, labels)), "Confusions: test") == [
        ["right", "answered", "times"],
        ["label 7", "label 5", "2"],
        ["label 3", "label 4", "1"],
    ]


def test_what_was_not_done_is_not_told() -> None:
    without = replace(report(sure(2, [0, 1], [0, 1], [0.9, 0.9])), sweep=None, diagnosis=None)
    page = write_page(without)
    assert "<h2>Learning rate" not in page
    assert "Next:" not in page
    assert "There are none." in page
    assert len(pictures_of(page)) == 3
