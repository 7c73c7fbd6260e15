"""The tuner: what it tries, what it chooses, what it writes; and one real run of it."""

import re
from pathlib import Path

import httpx
import pytest
from PIL import Image

from loadtests.compare.arrivals import Visit
from loadtests.compare.dialects import Body
from loadtests.compare.outcome import Outcome
from loadtests.tune import __main__ as command
from loadtests.tune import trials
from loadtests.tune.callers import keep_asking, summarise
from loadtests.tune.candidates import DEFAULTS, Candidate, combine, near, single_changes
from loadtests.tune.defaults import Defaults, read_defaults
from loadtests.tune.models import Description, TakesSeveral, describe, link_model
from loadtests.tune.report import conclude, draw, write_settings, write_table
from loadtests.tune.selection import Point, Window, choose, finalists
from loadtests.tune.trials import measure
from service.model.model import load
from service.settings import Settings
from tests.conftest import write_colours, write_words
from tests.servers import PROJECT, served, small_server

MODELS = PROJECT / "models"
LANES, INT8, BATCH = (
    Candidate((change,)) for change in (("lanes", "1"), ("precision", "int8"), ("max_batch", "8"))
)
BOTH = combine([LANES, INT8])
CATS = Description("cats", "1", "image", "classify", [], 16, ["int8"])


def window(rate: float, p99: float, errors: int = 0) -> Window:
    return Window(Outcome(round(rate), errors, 1.0, p99 / 2, p99, p99, 0.1), 300 * 2**20)


def point(
    candidate: Candidate, *rates: float, p99: float = 0.1, callers: int = 4, errors: int = 0
) -> Point:
    """One round for each rate."""
    windows = {number: window(rate, p99, errors) for number, rate in enumerate(rates)}
    return Point(candidate, callers, windows)


# What is tried


def test_values_are_the_ends_and_half_and_twice() -> None:
    assert near(16, 64) == [1, 8, 32, 64]
    assert near(1, 2) == [2]
    assert near(2, 2) == [1, 4]
    assert near(1, 1) == [2]


def test_each_setting_is_changed_alone_unless_the_user_has_set_it() -> None:
    defaults = Defaults(cores=4, workers=1, lanes=2, threads=2, decode_threads=4)
    fixed = ["SENSORIUM_THREADS", "SENSORIUM_MODELS"]
    tried = single_changes(defaults, CATS, most_callers=20, fixed=fixed)
    assert [candidate.label for candidate in tried] == [
        "precision=int8",
        *("workers=2", "workers=4"),
        *("lanes=1", "lanes=4"),
        *("decode_threads=1", "decode_threads=2", "decode_threads=8"),
        *("max_batch=1", "max_batch=8", "max_batch=20"),
    ]


def test_of_two_values_of_one_setting_the_better_one_is_combined() -> None:
    many_lanes = Candidate((("lanes", "4"),))
    assert combine([INT8, LANES, many_lanes]) == combine([LANES, INT8]) == BOTH
    assert combine([]) == DEFAULTS


def test_the_limit_on_batches_is_no_environment_variable() -> None:
    both = combine([BATCH, INT8])
    assert both.environment == {"SENSORIUM_PRECISION": "int8"}
    assert both.max_batch == 8
    assert DEFAULTS.max_batch is None


def test_the_defaults_are_those_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORIUM_LANES", "3")
    monkeypatch.setenv("SENSORIUM_THREADS", "5")
    found = read_defaults()
    assert (found.lanes, found.threads) == (3, 5)
    assert found.decode_threads == Settings().decoders


# What is chosen


def test_the_most_answers_within_the_p99_are_chosen() -> None:
    points = [
        point(DEFAULTS, 100, 100, 100),
        point(LANES, 120, 120, 120),
        point(INT8, 150, 150, 150, p99=0.3),
        point(INT8, 130, 130, 130, p99=0.2, callers=2),
    ]
    assert choose(points, 0.25) is points[3]
    assert choose(points, 0.3) is points[2]
    assert choose(points, 0.15) is points[1]
    assert choose(points, 0.05) is None


def test_errors_and_silence_are_never_chosen() -> None:
    silent, wrong = point(DEFAULTS, 0, 0, p99=0), point(LANES, 99, 99, errors=1)
    sound = point(INT8, 50, 50)
    assert choose([silent, wrong, sound], 1) is sound
    assert choose([silent, wrong], 1) is None


@pytest.mark.parametrize(
    "rates",
    [
        pytest.param((120, 120, 99), id="slower in one of the rounds"),
        pytest.param((104, 104, 104), id="a gain that is not worth a setting"),
    ],
)
def test_the_defaults_stay_where_the_gain_is_within_noise(rates: tuple[float, ...]) -> None:
    points = [point(DEFAULTS, 100, 100, 100), point(LANES, *rates)]
    assert choose(points, 1) is points[0]


def test_a_machine_that_is_slow_for_a_while_hides_no_gain() -> None:
    points = [point(DEFAULTS, 100, 50, 100), point(LANES, 110, 55, 110)]
    assert choose(points, 1) is points[1]


def test_of_what_is_as_good_the_fewest_changes_are_chosen() -> None:
    points = [
        point(DEFAULTS, 100, 100),
        point(BOTH, 203, 203),
        point(INT8, 200, 201),
        point(INT8, 202, 201, callers=16),
    ]
    assert choose(points, 1) is points[3]


def test_measured_again_are_the_defaults_the_best_two_and_all_gains_together() -> None:
    threads = Candidate((("threads", "2"),))
    points = [
        point(DEFAULTS, 100),
        point(LANES, 130),
        point(INT8, 200),
        point(threads, 102),
        point(BATCH, 90),
    ]
    assert finalists(points, 1) == [DEFAULTS, INT8, LANES, BOTH]
    assert finalists(points, 0.01) == []


def test_where_only_changes_meet_the_p99_they_are_all_gains() -> None:
    points = [point(DEFAULTS, 100, p99=2), point(LANES, 50), point(INT8, 60)]
    assert finalists(points, 1) == [DEFAULTS, INT8, LANES, BOTH]


def test_candidates_take_turns_and_those_that_cannot_be_served_have_no_points() -> None:
    turns = []

    def run(candidate: Candidate) -> dict[int, Window]:
        turns.append(candidate)
        return {} if candidate == INT8 else {1: window(len(turns), 0.1), 8: window(9, 0.1)}

    points = measure([DEFAULTS, LANES, INT8], 2, run)
    assert turns == [DEFAULTS, LANES, INT8, LANES, INT8, DEFAULTS]
    assert [(p.candidate, p.callers) for p in points] == [
        (DEFAULTS, 1),
        (DEFAULTS, 8),
        (LANES, 1),
        (LANES, 8),
    ]
    assert points[0].rates == {0: 1, 1: 6}
    assert measure([], 2, run) == []


# What is asked


def test_callers_ask_again_as_soon_as_they_are_answered() -> None:
    bodies = [Body("text/plain", b"one"), Body("text/plain", b"two")]
    with small_server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as (port, got):
        found = keep_asking(port, "/text?a=b", bodies, callers=3, seconds=0.3)
    assert found.errors == 0
    assert 0 <= len(got) - found.answers <= 3  # each caller's last may come after the end
    assert found.answers > 6
    assert abs(sum(request.endswith(b"one") for request in got) * 2 - len(got)) <= 3
    assert got[0].startswith(b"POST /text?a=b HTTP/1.1\n")


def test_a_refused_caller_leaves() -> None:
    with small_server(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") as (port, got):
        found = keep_asking(port, "/", [Body("text/plain", b"x")], callers=3, seconds=0.3)
    assert (found.answers, found.errors, len(got)) == (0, 3, 3)


def test_an_answer_after_the_end_was_waited_for_but_is_no_throughput() -> None:
    visits = [
        Visit(0.0, 0.5, 200),
        Visit(0.5, 0.5, 200),
        Visit(0.9, 4.0, 200),
        Visit(0.9, 9.0, 503),
    ]
    found = summarise(visits, 1.0, 0.1)
    assert (found.answers, found.errors, found.rate) == (2, 1, 2)
    assert found.p99 == 4.0


# Models


def card(provider: str = "cpu", precision: str = "fp32", **reading: object) -> dict[str, object]:
    graphs = [("cpu", "fp32"), ("cpu", "int8"), ("cuda", "fp16")]
    return {
        "id": "cats",
        "version": "2",
        "provider": provider,
        "precision": precision,
        "manifest": {
            "preprocessing": reading or {"modality": "image"},
            "graphs": [{"device": device, "precision": name} for device, name in graphs],
            "tasks": {"embed": {}},
            "batching": {"max_batch": 16},
        },
    }


def test_a_model_is_asked_for_what_it_can() -> None:
    found = describe(card())
    assert found == Description("cats", "2", "image", "embed", [], 16, ["int8"])
    assert found.path == "/v1/image/embed?model=cats"


def test_precisions_are_those_of_the_device() -> None:
    assert describe(card("cuda", "fp16")).other_precisions == ["fp32", "int8"]
    assert describe(card("cpu", "int8")).other_precisions == ["fp32"]


def test_a_head_is_asked_with_what_its_encoder_reads() -> None:
    words, pictures = ({"name": f"{kind}s", "modality": kind} for kind in ("text", "image"))
    found = describe(card(modality="vector", encoders=[words]))
    assert (found.modality, found.encoders) == ("text", ["texts"])
    with pytest.raises(TakesSeveral, match="tune each of its encoders"):
        describe(card(modality="vector", encoders=[words, pictures]))


def test_a_model_is_served_with_another_limit_and_with_its_encoders_only(tmp_path: Path) -> None:
    models, into = tmp_path / "models", tmp_path / "links"
    into.mkdir()
    original = write_colours(models, name="cats")
    write_words(models, name="needed")
    write_words(models, name="other")
    model = Description("cats", "1", "image", "classify", ["needed"], 16, [])
    link_model(models, model, 3, into)
    assert {path.name for path in into.iterdir()} == {"cats", "needed"}
    assert load(into / "cats/1", Settings()).manifest.batching.max_batch == 3
    assert load(into / "needed/1", Settings())
    assert load(original, Settings()).manifest.batching.max_batch != 3


# What is said


def test_the_table_marks_the_chosen_one() -> None:
    points = [point(DEFAULTS, 100, 110, 120), point(LANES, 150)]
    lines = write_table(points, points[1]).splitlines()
    assert lines[2] == ("| defaults | 4 | 110.0 (100.0 to 120.0) | 50.0 | 100.0 | 0.10 | 300 | 0 |")
    assert lines[3].startswith("| **lanes=1** | 4 | 150.0 |")


def test_the_conclusion_says_what_was_gained() -> None:
    points = [point(DEFAULTS, 100), point(LANES, 150, callers=8)]
    gained = "lanes=1: 150.0 answers/s, p99 100 ms, 8 at once; the defaults: 100.0 answers/s"
    assert conclude(points, points[1], 1).startswith(gained)
    assert "defaults are as good as anything" in conclude(points, points[0], 1)
    slow = [point(DEFAULTS, 100, p99=2), points[1]]
    assert conclude(slow, slow[1], 1).endswith("the defaults: no p99 within 1000 ms.")
    missed = "Nothing meets a p99 of 50 ms; the quickest: 100.0 answers/s, p99 100 ms, 4 at once."
    assert conclude(points[:1], None, 0.05) == missed
    assert conclude([point(DEFAULTS, 9, errors=1)], None, 1) == (
        "Nothing was answered without errors."
    )


def test_what_no_variable_can_say_stands_in_comments(tmp_path: Path) -> None:
    path = tmp_path / "cats.env"
    write_settings(combine([INT8, BATCH]), CATS, ["cats, 2026"], path)
    lines = path.read_text().splitlines()
    assert lines[0] == "# cats, 2026"
    assert [line for line in lines if not line.startswith("#")] == ["SENSORIUM_PRECISION=int8"]
    assert "batching.max_batch: 8 (now 16)" in path.read_text()
    assert "int8 changes the answers" in path.read_text()


@pytest.mark.parametrize("is_chosen", [True, False])
def test_the_picture_is_drawn(tmp_path: Path, is_chosen: bool) -> None:
    points = [point(DEFAULTS, 100), point(LANES, 0, p99=0)]
    draw(points, points[0] if is_chosen else None, 0.25, tmp_path / "cats.png")
    with Image.open(tmp_path / "cats.png") as picture:
        assert min(picture.size) > 300


def test_what_is_tuned_keeps_nothing_and_else_what_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dogs").mkdir()
    said = {"MODELS": str(tmp_path), "LANES": "3", "CACHE_BYTES": "1000000"}
    for name, value in said.items():
        monkeypatch.setenv(f"SENSORIUM_{name}", value)
    settings = command._bench("dogs").settings
    assert {name: settings[f"SENSORIUM_{name}"] for name in said} == said | {"CACHE_BYTES": "0"}


def test_a_model_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SENSORIUM_MODELS", str(tmp_path))
    into = ["--into", str(tmp_path / "x.env")]
    assert command.main(["--model", "dogs", "--p99", "9", *into]) == 1
    assert "there is no model dogs" in capsys.readouterr().err


# A real run


def settings_in(path: Path) -> dict[str, str]:
    """As a shell or Docker reads them."""
    lines = (line for line in path.read_text().splitlines() if not line.startswith("#"))
    return dict(line.split("=") for line in lines)


def test_one_run_gives_a_table_a_picture_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "spoken-digits").symlink_to(MODELS / "spoken-digits")
    monkeypatch.setenv("SENSORIUM_MODELS", str(models))
    for setting in ("WORKERS", "LANES", "THREADS", "DECODE_THREADS"):  # so only batches differ
        monkeypatch.setenv(f"SENSORIUM_{setting}", "1")
    monkeypatch.setattr(command, "CALLERS_A_CORE", ())  # and only in one way
    monkeypatch.setattr(trials, "WARM_SECONDS", 0.1)
    into = tmp_path / "digits.env"
    payloads = ["--data", str(MODELS / "spoken-digits/1")]
    tiny = ["--seconds", "0.3", "--rounds", "1", "--into", str(into)]
    assert command.main(["--model", "spoken-digits", "--p99", "30000", *payloads, *tiny]) == 0
    said = capsys.readouterr().out
    assert "/v1/audio/classify?model=spoken-digits, 1 files; about" in said
    assert re.search(
        r"^\| (\*\*)?max_batch=1(\*\*)? \| 1 \|", said, re.MULTILINE
    )  # the better one is bold
    assert said.count("**") == 2
    assert settings_in(into) == {}
    assert "p99 within 30000 ms" in into.read_text()
    with Image.open(into.with_suffix(".png")) as picture:
        assert min(picture.size) > 300


def test_a_service_is_ready_with_every_setting_that_can_be_written(tmp_path: Path) -> None:
    names = ("workers", "lanes", "threads", "decode_threads")
    changes = (*((name, "2") for name in names), ("precision", "fp32"))
    write_settings(Candidate(changes), CATS, ["every one"], tmp_path / "all.env")
    settings = settings_in(tmp_path / "all.env")
    assert len(settings) == len(changes)
    models = tmp_path / "models"
    write_colours(models)
    with served(models, workers=int(settings.pop("SENSORIUM_WORKERS")), env=settings) as url:
        assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            environment.setenv(name, value)
        assert Settings().lanes == Settings().threads == Settings().decode_threads == 2
