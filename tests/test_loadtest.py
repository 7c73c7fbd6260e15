"""The load test: it finds wrong answers, brings callers uninvited, and judges by its exit code."""

import csv
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtests.answers import Judge, Wrong
from loadtests.models import Model, NoModel, choose_targets, list_models
from loadtests.payloads import (
    MIXED,
    MOST,
    SHORT,
    Payload,
    cut,
    json_texts,
    multipart,
    raw,
    read_payloads,
)
from loadtests.plots import Moment, draw, read_history
from loadtests.shapes import SHAPES, Shape, arrivals
from loadtests.thresholds import Summary, Thresholds, breaches
from tests.conftest import png, tone, write_warmth
from tests.servers import PROJECT, free_port, plain_environment, served
from tests.website import open_website

CAT = Payload("cat.jpg", "image/jpeg", b"a cat")
DOG = Payload("dog.jpg", "image/jpeg", b"a dog")


@pytest.fixture
def payloads(tmp_path: Path) -> Path:
    """Files as someone might have them, in several folders."""
    folder = tmp_path / "payloads"
    for name, content in {
        "red.png": png((250, 9, 9)),
        "more/blue.png": png((9, 9, 250)),
        "more/loud.wav": tone(0.9),
        "more/silent.wav": tone(0.01),
        "cat.txt": b"red cat",
        "notes.docx": b"not a payload",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with (folder / "sentences.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("text", "label"), ("blue sea", "good"), ("green dog", "bad")])
    return folder


def run_locust(
    url: str, payloads: Path, *options: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    process = start_locust(url, payloads, *options, env=env)
    output, _ = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def start_locust(
    url: str, payloads: Path, *options: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "locust", "--config", "loadtests/locust.conf"),
            *("--host", url, "--run-time", "3s", *options),
        ],
        cwd=PROJECT,
        env={**plain_environment(), "SENSORIUM_LOAD_PAYLOADS": str(payloads), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # where locust writes its table
        text=True,
    )


def answer(*results: dict[str, Any]) -> bytes:
    return json.dumps({"results": results}).encode()


def ok(index: int, label: str, score: float = 0.9) -> dict[str, Any]:
    labels = [{"label": label, "score": score}, {"label": "other", "score": 1 - score}]
    return {"index": index, "status": "ok", "labels": labels}


def test_a_sound_service_gets_a_table_without_failures(small_models: Path, payloads: Path) -> None:
    with served(small_models) as url:
        run = run_locust(url, payloads)
    assert run.returncode == 0, run.stdout
    for form in (
        "/v1/image/classify raw",
        "/v1/text/embed raw",
        "/v1/audio/classify raw",
        " multipart",
        " json",
    ):
        assert form in run.stdout
    assert "0(0.00%)" in run.stdout


def test_a_service_without_a_model_fails_the_run(small_models: Path, payloads: Path) -> None:
    shutil.rmtree(small_models / "loudness")
    with served(small_models) as url:
        run = run_locust(url, payloads)
    assert run.returncode == 1
    assert "404: no ready model can classify audio" in run.stdout


def answered(url: str) -> set[str]:
    """The models that have answered."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    return set(re.findall(r'sensorium_items_total{model="([^"]+)",outcome="ok"', text))


def test_a_second_model_of_a_modality_does_not_fail_the_run(
    small_models: Path, payloads: Path
) -> None:
    """As after the README's own `fit image`."""
    head = write_warmth(small_models, "a-head")  # the first by its name
    os.utime(head / "manifest.yaml", (time.time() + 60, time.time() + 60))  # the last by its age
    with served(small_models) as url:
        run = run_locust(url, payloads)
        asked = answered(url)
    assert run.returncode == 0, run.stdout
    assert "0(0.00%)" in run.stdout
    assert asked == {"colours", "words", "loudness"}
    assert "Photos: /v1/image/classify by colours" in run.stdout


@pytest.mark.parametrize(
    ("model", "scenarios"),
    [("warmth", {"Photos"}), ("words,warmth", {"Photos", "ShortTexts", "MixedTexts"})],
)
def test_the_models_that_are_named_are_asked_and_no_others(
    small_models: Path, payloads: Path, model: str, scenarios: set[str]
) -> None:
    write_warmth(small_models)
    with served(small_models) as url:
        run = run_locust(url, payloads, "--model", model)
        asked = answered(url)
    assert run.returncode == 0, run.stdout
    assert asked == set(model.split(","))
    assert set(re.findall(r"(\w+): /v1/", run.stdout)) == scenarios


def test_a_model_that_is_not_there_stops_the_run_at_once(
    small_models: Path, payloads: Path
) -> None:
    with served(small_models) as url:
        run = run_locust(url, payloads, env={"SENSORIUM_LOAD_MODEL": "leaves"})
        images = run_locust(url, payloads, "Digits", "--model", "colours")
    assert run.returncode != 0
    assert (
        "there is no model leaves that is ready; ready are: colours, loudness, words" in run.stdout
    )
    assert images.returncode != 0
    assert "no scenario that runs sends what colours can take" in images.stdout


def known(name: str, modalities: str, tasks: str, created: int = 0) -> Model:
    return Model(name, frozenset(modalities.split()), frozenset(tasks.split()), created)


LISTED = [
    known("zebras", "image", "classify embed", created=1),
    known("cats", "image", "classify", created=2),
    known("intents", "text", "classify", created=3),
    known("birds", "audio", "embed", created=4),
    known("products", "", "classify", created=0),
]


@pytest.mark.parametrize(
    ("models", "named", "expected"),
    [
        (
            LISTED,
            "",
            "/v1/image/classify by zebras, /v1/text/classify by intents, /v1/audio/embed by birds",
        ),
        (
            [known("vectors", "text", "embed", created=9), *LISTED[2:]],
            "",
            "/v1/image/classify by the model that the service chooses,"
            " /v1/text/embed by vectors, /v1/audio/embed by birds",
        ),
        (
            [replace(LISTED[1], default_for=frozenset(["image/classify"])), *LISTED],
            "",
            "/v1/image/classify by cats",
        ),
        (LISTED, "cats", "/v1/image/classify by cats"),
        (LISTED, "intents cats", "/v1/text/classify by intents, /v1/image/classify by cats"),
        (LISTED, "cats zebras", "zebras and cats both take image; name one of them"),
        (LISTED, "dogs", "there is no model dogs that is ready; ready are: birds, cats, intents"),
        ([], "dogs", "ready are: none"),
        (LISTED, "products", "products takes several modalities at once"),
    ],
)
def test_each_modality_asks_the_default_the_oldest_or_the_named_model(
    models: list[Model], named: str, expected: str
) -> None:
    try:
        found = ", ".join(map(str, choose_targets(models, named.split()).values()))
    except NoModel as error:
        found = str(error)
    assert found.startswith(expected) or expected in found


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": [{}]}', b"{}"])
def test_a_server_that_lists_no_models_is_named(body: bytes) -> None:
    with open_website() as website:
        website.files["v1/models"] = body
        with pytest.raises(NoModel, match="gives no list"):
            list_models(website.address)


def test_thresholds_decide_the_exit_code(small_models: Path, payloads: Path) -> None:
    open_loop = ("ShortTexts", "--shape", "soak", "--peak", "20")
    port = str(free_port())
    workers = ("--processes", "2", "--master-bind-port", port, "--master-port", port)
    with served(small_models) as url:
        kept = run_locust(
            url, payloads, *open_loop, *workers, env={"SENSORIUM_LOAD_P95_MS": "60000"}
        )
        missed = run_locust(url, payloads, *open_loop, env={"SENSORIUM_LOAD_P95_MS": "0.001"})
    assert kept.returncode == 0, kept.stdout
    assert "ShortTexts /v1/text/embed raw" in kept.stdout
    assert "Photos" not in kept.stdout
    [requests] = re.findall(r"Aggregated +(\d+) .*%\)", kept.stdout)
    assert 20 < int(requests) < 100  # some 60, whatever the number of workers
    assert missed.returncode == 1
    assert re.search(r"threshold not kept: p95 in ms is \d+, above 0.001", missed.stdout)


def test_errors_within_their_share_do_not_fail_a_run(small_models: Path, payloads: Path) -> None:
    shutil.rmtree(small_models / "loudness")
    with served(small_models) as url:
        run = run_locust(url, payloads, env={"SENSORIUM_LOAD_ERROR_SHARE": "0.9"})
    assert run.returncode == 0
    assert "Digits /v1/audio/classify raw failed" in run.stdout


def test_callers_come_although_nobody_is_answered(payloads: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, ExitStack() as waiting:
        mute.settimeout(30)
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        locust = start_locust(
            url, payloads, "--shape", "soak", "--peak", "30", "--stop-timeout", "0"
        )
        waiting.callback(locust.kill)
        for _ in range(40):  # a closed loop of ten users would come to ten
            waiting.enter_context(mute.accept()[0])
        locust.send_signal(signal.SIGINT)
        output, _ = locust.communicate()
    assert locust.returncode == 1
    assert "there was no sound answer" in output


def test_time_counts_from_when_a_caller_should_have_come(
    small_models: Path, payloads: Path
) -> None:
    options = ("ShortTexts", "--shape", "soak", "--peak", "50", "--p99-ms", "500")
    with served(small_models) as url:
        locust = start_locust(url, payloads, *options, "--run-time", "6s")
        while "sensorium_items_total{" not in httpx.get(f"{url}/metrics", trust_env=False).text:
            assert locust.poll() is None
        locust.send_signal(signal.SIGSTOP)
        time.sleep(1.5)  # in which some 75 callers should have come
        locust.send_signal(signal.SIGCONT)
        output, _ = locust.communicate()
    assert locust.returncode == 1, output
    assert "p99 in ms" in output


def test_a_shape_needs_an_end(payloads: Path) -> None:
    run = run_locust("http://127.0.0.1:9", payloads, "--shape", "soak", "--run-time", "0s")
    assert run.returncode != 0
    assert "--shape needs --run-time" in run.stdout


def test_a_mistyped_threshold_does_not_pass_for_none(payloads: Path) -> None:
    run = run_locust("http://127.0.0.1:9", payloads, env={"SENSORIUM_LOAD_P59_MS": "1"})
    assert run.returncode != 0
    assert "there is no SENSORIUM_LOAD_P59_MS" in run.stdout


def test_without_payloads_it_says_what_to_do(tmp_path: Path) -> None:
    run = run_locust("http://127.0.0.1:9", tmp_path)
    assert run.returncode != 0
    assert "set SENSORIUM_LOAD_PAYLOADS" in run.stdout


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (404, b'{"detail": "there is no model x"}', "404: there is no model x"),
        (200, b"<html>", "not JSON"),
        (200, b"[]", "not a JSON object"),
        (200, answer(), "not one result for each payload"),
        (200, answer(ok(0, "cat"), ok(1, "dog")), "not one result for each payload"),
        (200, answer(ok(1, "cat")), "not in order"),
        (200, answer(ok(0, "cat", score=0.2)), "no sound labels"),
        (200, answer({"index": 0, "status": "ok", "labels": []}), "no sound labels"),
        (
            200,
            answer({"index": 0, "status": "error", "error": {"detail": "not a picture"}}),
            "not a picture",
        ),
    ],
)
def test_wrong_answers_are_failures(status: int, body: bytes, complaint: str) -> None:
    with pytest.raises(Wrong, match=complaint):
        Judge("labels").judge(status, body, [CAT])


def test_an_answer_that_reached_the_wrong_caller_is_found() -> None:
    judge = Judge("labels")
    judge.judge(200, answer(ok(0, "cat"), ok(1, "dog")), [CAT, DOG])
    judge.judge(200, answer(ok(0, "dog", 0.9001), ok(1, "cat")), [DOG, CAT])
    with pytest.raises(Wrong, match=r"another answer than before for cat\.jpg"):
        judge.judge(200, answer(ok(0, "dog")), [CAT])


def test_vectors_may_differ_by_rounding_only() -> None:
    def vector(*values: float) -> bytes:
        return answer({"index": 0, "status": "ok", "vector": values})

    judge = Judge("vector")
    judge.judge(200, vector(0.5, -0.5), [CAT])
    judge.judge(200, vector(0.50001, -0.5), [CAT])
    with pytest.raises(Wrong, match="another answer"):
        judge.judge(200, vector(0.51, -0.5), [CAT])
    with pytest.raises(Wrong, match="no sound vector"):
        judge.judge(200, vector(float("nan"), 1), [CAT])


def test_payloads_are_files_and_the_rows_of_tables(payloads: Path) -> None:
    files = list(payloads.rglob("*"))
    assert [Path(p.name).name for p in read_payloads("image", files)] == ["blue.png", "red.png"]
    assert {p.content for p in read_payloads("text", files)} == {
        b"red cat",
        b"blue sea",
        b"green dog",
    }
    assert {p.media_type for p in read_payloads("audio", files)} == {"audio/wav"}


def test_of_very_many_payloads_some_from_everywhere_are_kept(tmp_path: Path) -> None:
    for number in range(MOST + 1):
        (tmp_path / f"{number:04}.txt").write_text(str(number))
    kept = [int(p.content) for p in read_payloads("text", tmp_path.iterdir())]
    assert kept == list(range(0, MOST + 1, 2))


def test_bodies_carry_their_payloads() -> None:
    assert raw(CAT).content == b"a cat"
    assert json.loads(json_texts([CAT, DOG]).content) == {"input": ["a cat", "a dog"]}
    form = multipart([CAT, DOG])
    boundary = form.content_type.partition("boundary=")[2].encode()
    parts = form.content.split(b"--" + boundary)
    assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:3]] == [b"a cat\r\n", b"a dog\r\n"]
    assert parts[3] == b"--\r\n"


def test_texts_are_cut_to_lengths_from_all_words() -> None:
    texts = [
        Payload("a.txt", "text/plain", b"one two three"),
        Payload("b.txt", "text/plain", b"four"),
    ]
    assert [text.content for text in cut(texts, [3, 2, 4])] == [
        b"one two three",
        b"four one",
        b"two three four one",
    ]
    assert (min(SHORT), max(SHORT)) == (6, 16)
    assert (min(MIXED), max(MIXED)) == (4, 256)
    assert len({text.name for text in cut(texts, MIXED)}) == len(MIXED)


@pytest.mark.parametrize(
    ("shape", "shares"),
    [
        ("step", [0.25, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 0.75, 1, 1]),
        ("spike", [0.2, 0.2, 0.2, 0.2, 1, 1, 0.2, 0.2, 0.2, 0.2]),
        ("sine", [0.2, 0.476, 0.924, 0.924, 0.476, 0.2, 0.476, 0.924, 0.924, 0.476]),
        ("soak", [1] * 10),
    ],
)
def test_shapes(shape: str, shares: list[float]) -> None:
    tenths = [SHAPES[shape](tenth / 10) for tenth in range(10)]
    assert tenths == pytest.approx(shares, abs=1e-3)


def come(shape: Shape, peak: float, seed: int) -> list[float]:
    return list(arrivals(shape, peak, 1000, random.Random(seed)))


@pytest.mark.parametrize("shape", SHAPES)
def test_callers_come_at_the_rate_of_the_shape(shape: str) -> None:
    callers = come(SHAPES[shape], 100, seed=1)
    assert callers == sorted(callers)
    for tenth in range(10):
        here = [caller for caller in callers if 100 * tenth <= caller < 100 * (tenth + 1)]
        wanted = sum(100 * SHAPES[shape]((100 * tenth + second) / 1000) for second in range(100))
        assert len(here) == pytest.approx(wanted, rel=0.05)


def test_callers_come_at_random_and_workers_bring_their_share() -> None:
    callers = sorted(come(SHAPES["soak"], 50, seed=1) + come(SHAPES["soak"], 50, seed=2))
    gaps = [after - before for before, after in itertools.pairwise(callers)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.01, rel=0.05)
    # Of a Poisson process' gaps, e^-1 are longer than their mean.
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.01)


@pytest.mark.parametrize(
    ("thresholds", "sentence"),
    [
        (Thresholds(p95_ms=100), "p95 in ms is 120, above 100"),
        (Thresholds(p99_ms=300), "p99 in ms is 310, above 300"),
        (Thresholds(error_share=0.05), "the share of errors is 0.1, above 0.05"),
        (Thresholds(), "the share of errors is 0.1, above 0"),
        (Thresholds(answers_a_second=10), "answers a second are 9, below 10"),
    ],
)
def test_a_threshold_that_is_not_kept_is_a_sentence(thresholds: Thresholds, sentence: str) -> None:
    summary = Summary(answers=90, failures=10, seconds=10, p95_ms=120, p99_ms=310)
    assert sentence in breaches(summary, thresholds)


def test_thresholds_are_kept_at_their_limit() -> None:
    summary = Summary(answers=90, failures=10, seconds=10, p95_ms=120, p99_ms=310)
    assert breaches(summary, Thresholds(120, 310, 0.1, 9)) == []


def test_a_run_without_an_answer_keeps_no_threshold() -> None:
    assert breaches(Summary(0, 0, 10, 0, 0), Thresholds()) == ["there was no sound answer"]


def test_the_course_of_a_run_is_drawn() -> None:
    history = [
        "Timestamp,User Count,Name,Requests/s,Failures/s,50%,95%",
        "100,0,Aggregated,0.0,0.0,N/A,N/A",
        "101,3,Photos,7.0,1.0,20,50",
        "101,3,Aggregated,9.0,1.0,30,60",
        "102,4,Aggregated,8.5,0.0,40,70",
    ]
    moments = read_history(history)
    assert moments == [Moment(0, 3, 9.0, 1.0, 30, 60), Moment(1, 4, 8.5, 0.0, 40, 70)]
    picture = io.BytesIO()
    draw(moments).savefig(picture)
    assert picture.getvalue().startswith(b"\x89PNG")
