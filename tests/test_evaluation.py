"""Evaluate and compare: figures of a folder and of a service, by hand-made answers."""

import argparse
import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import COLOURS, png, write_colours, write_loudness, write_words
from tests.servers import served
from training import comparison, evaluation
from training.answers import (
    Answered,
    CannotAnswer,
    FolderModels,
    Scored,
    ServiceModels,
    Subject,
    find_scored,
    keep_known,
)
from training.comparison import compare
from training.evaluation import evaluate
from training.layouts import Item
from training.measures import (
    Bin,
    Duel,
    accuracy,
    calibration_error,
    confidence_bins,
    confusion,
    confusions,
    macro_f1,
    per_class,
)

COLOURS_SEEN = {
    "red": [(200, 30, 40), (250, 0, 0), (10, 200, 10)],  # the last one looks green
    "green": [(0, 220, 20), (30, 90, 40)],
    "blue": [(0, 0, 255)],
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write_colours(folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """DIR/<class>/files: six pictures, of which one has another colour than its folder says."""
    folder = tmp_path / "pictures"
    for label, colours in COLOURS_SEEN.items():
        (folder / label).mkdir(parents=True)
        for number, colour in enumerate(colours):
            (folder / label / f"{number}.png").write_bytes(png(colour))
    return folder


def command(module: Any, words: str) -> None:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    module.run(parser.parse_args(words.split()))


def test_a_folder_is_evaluated_by_the_path_that_serves(
    tmp_path: Path, models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "new/confusion.png"
    command(evaluation, f"colours --data {pictures} --models {models} --confusion {picture}")
    shown = capsys.readouterr().out
    assert "colours version 1 on 6 of" in shown
    assert "accuracy           0.8333" in shown
    # F1: red 4/5, green 4/5, blue 1
    assert "macro F1           0.8667" in shown
    assert "1  red taken for green" in shown
    assert "items/s, 6 in flight" in shown
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"


def test_a_service_gives_the_same_figures(models: Path, pictures: Path) -> None:
    (pictures / "blue/broken.png").write_bytes(b"no picture")

    async def ask_folder() -> tuple[Scored, Answered]:
        async with FolderModels.open(models) as opened:
            subject = opened.find("colours:1")
            scored = find_scored(pictures, subject.modality)
            return scored, await opened.ask(subject, scored.items)

    scored, at_home = asyncio.run(ask_folder())
    with served(models) as url:
        service = ServiceModels(url)
        subject = service.find("colours")
        abroad = service.ask(subject, scored.items)
        with pytest.raises(CannotAnswer, match="answers 404: there is no model colour;"):
            service.find("colour")
    assert subject == at_home.subject
    assert abroad.probabilities.keys() == at_home.probabilities.keys()
    for number, values in at_home.probabilities.items():
        assert abroad.probabilities[number] == pytest.approx(values, abs=1e-5)
    assert len(at_home.skipped) == len(abroad.skipped) == 1
    assert "broken.png" in at_home.skipped[0]
    assert "broken.png" in abroad.skipped[0]
    assert evaluate(scored, abroad).accuracy == evaluate(scored, at_home).accuracy == 5 / 6
    with pytest.raises(CannotAnswer, match="does not answer"):
        service.find("colours")


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(CannotAnswer, match="does not begin with http"):
        ServiceModels("file:///etc")


def test_the_test_split_is_scored_where_there_is_one(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("red", "blue"):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "a.png").write_bytes(png((0, 0, 0)))
    items = find_scored(tmp_path, "image").items
    assert [item.name for item in items] == [
        str(tmp_path / f"test/{label}/a.png") for label in ("blue", "red")
    ]


def test_a_table_of_tests_needs_no_table_of_training(tmp_path: Path) -> None:
    lines = [{"text": "how nice", "label": "good"}, {"text": "no", "label": "bad"}]
    (tmp_path / "test.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    scored = find_scored(tmp_path, "text")
    assert [(item.read(), item.label) for item in scored.items] == [
        (b"how nice", "good"),
        (b"no", "bad"),
    ]


def test_labels_that_the_model_does_not_have_are_told(
    models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "blue").rename(pictures / "azure")
    command(evaluation, f"colours --data {pictures} --models {models}")
    shown = capsys.readouterr().out
    assert "skipped: label azure is not among those of colours" in shown
    assert "colours version 1 on 5 of" in shown


def test_data_without_any_of_the_models_labels_is_refused() -> None:
    scored = Scored((Item("a", "text", "cat"),), "cats.csv", ())
    with pytest.raises(CannotAnswer, match=r"none of the labels of cats\.csv \(cat\)"):
        keep_known(scored, Subject("colours", "1", "text", ("red", "green")))


def test_a_model_that_does_not_classify_is_refused(tmp_path: Path, pictures: Path) -> None:
    write_words(tmp_path / "models")
    with pytest.raises(CannotAnswer, match="words version 1 does not classify"):
        command(evaluation, f"words --data {pictures} --models {tmp_path / 'models'}")


def test_two_models_are_compared(
    models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reddish = COLOURS.replace("{0.1}", "{-0.1}")  # takes the weakest colour for the answer
    write_colours(models, version=2, graph=reddish)
    command(comparison, f"colours:1 colours:2 --data {pictures} --models {models}")
    shown = capsys.readouterr().out
    assert "on 6 of" in shown
    assert "colours:1: accuracy 0.8333" in shown
    assert "right: both 0, only colours:1 5, only colours:2" in shown
    assert "agreement: 0.0000" in shown
    assert "the difference may be chance" in shown
    assert "times as fast as colours:2" in shown


def test_models_of_unlike_modalities_are_not_compared(models: Path, pictures: Path) -> None:
    write_loudness(models)
    with pytest.raises(CannotAnswer, match="colours reads image, loudness audio"):
        command(comparison, f"colours loudness --data {pictures} --models {models}")


def answered(labels: tuple[str, ...], rows: Mapping[int, list[float]]) -> Answered:
    values = {number: np.array(row, np.float32) for number, row in rows.items()}
    return Answered(Subject("a", "1", "text", labels), values, (), 1.0, 1)


def test_a_comparison_goes_by_names_and_by_what_both_could_read() -> None:
    items = tuple(Item(str(n), "text", label) for n, label in enumerate(("x", "y", "y", "x")))
    first = answered(("x", "y"), {0: [1, 0], 1: [0, 1], 2: [1, 0], 3: [1, 0]})
    second = answered(("y", "x"), {0: [0, 1], 1: [0, 1], 2: [0, 1]})
    duel = compare(Scored(items, "here", ()), first, second)
    assert duel == Duel(both=1, only_first=1, only_second=0, neither=1, agreement=2 / 3)


def test_two_classes_of_one_name_are_both_right() -> None:
    items = (Item("a", "text", "crane"), Item("b", "text", "crane"))
    found = evaluate(
        Scored(items, "here", ()),
        answered(("crane", "owl", "crane"), {0: [0.9, 0.1, 0], 1: [0, 0.1, 0.9]}),
    )
    assert found.accuracy == 1
    assert found.counts[0, 0] == 2


def test_nothing_readable_has_no_figures() -> None:
    silent = Answered(Subject("a", "1", "text", ("x",)), {}, ("b: is empty",), 1.0, 1)
    with pytest.raises(CannotAnswer, match="b: is empty"):
        evaluate(Scored((Item("b", "", "x"),), "here", ()), silent)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(0, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (8, 2, 0.109375), (3, 3, 1.0)],
)
def test_mcnemars_exact_test(only_first: int, only_second: int, p: float) -> None:
    """The binomial's two tails, as any table has them."""
    assert Duel(7, only_first, only_second, 1, 0.5).p_value == pytest.approx(p)


def test_mcnemars_test_of_very_many_items() -> None:
    assert 0 < Duel(0, 5_000, 4_700, 0, 0.5).p_value < 0.01


def test_accuracy_and_f1_by_hand() -> None:
    right, given = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 3])
    assert accuracy(right, given) == 0.5
    # class 0: 2/3, class 1: 2/3, class 2 never answered: 0, class 3 answered wrongly: 0
    assert macro_f1(right, given) == pytest.approx(1 / 3)
    assert macro_f1(np.array([0, 5]), np.array([0, 5])) == 1  # 1 to 4 do not occur


def test_figures_of_classes_by_hand() -> None:
    right, given = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1, 1, 1])
    found = per_class(right, given, 4)
    unknown = np.nan  # class 2 is never answered, class 3 never there
    assert found.precision == pytest.approx([1, 1 / 3, unknown, unknown], nan_ok=True)
    assert found.recall == pytest.approx([2 / 3, 1, 0, unknown], nan_ok=True)
    assert found.f1 == pytest.approx([4 / 5, 1 / 2, 0, unknown], nan_ok=True)
    assert found.support.tolist() == [3, 1, 1, 0]


def test_bins_hold_answers_of_one_confidence() -> None:
    hits = np.array([True, False, True])
    low, high = confidence_bins(hits, np.array([0.51, 0.53, 1.0], np.float32))
    assert (low.number, low.items, low.accuracy) == (7, 2, 0.5)  # from 7/15 to 8/15
    assert low.confidence == pytest.approx(0.52)
    assert high == Bin(number=14, items=1, confidence=1.0, accuracy=1.0)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    hits = np.array([True, True, True, False])
    honest = np.full(4, 0.75, np.float32)
    assert calibration_error(hits, honest) == pytest.approx(0)
    assert calibration_error(hits, np.ones(4, np.float32)) == pytest.approx(0.25)
    # Two bins: one right of two at 0.9, two right of two at 0.6.
    mixed = np.array([0.6, 0.6, 0.9, 0.9], np.float32)
    assert calibration_error(hits, mixed) == pytest.approx((0.4 + 0.4) / 2)


def test_confusions_are_counted_the_commonest_first() -> None:
    counts = confusion(np.array([0, 0, 0, 1, 2, 2]), np.array([1, 1, 0, 1, 0, 2]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
    assert confusions(counts, 10) == [(0, 1, 2), (2, 0, 1)]
    assert confusions(counts, 1) == [(0, 1, 2)]
