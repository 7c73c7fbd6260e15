"""The load test: it finds wrong answers, and says so by its exit code."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.answers import Judge, Wrong
from loadtests.payloads import MOST, Payload, json_texts, multipart, raw, read_payloads
from tests.conftest import png, tone
from tests.servers import PROJECT, plain_environment, served

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


def run_locust(url: str, payloads: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "locust", "--config", "loadtests/locust.conf"),
            *("--host", url, "--run-time", "3s"),
        ],
        cwd=PROJECT,
        env={**plain_environment(), "LOADTEST_PAYLOADS": str(payloads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # where locust writes its table
        text=True,
        check=False,
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
    assert "404: no model that is ready can classify audio" in run.stdout


def test_without_payloads_it_says_what_to_do(tmp_path: Path) -> None:
    run = run_locust("http://127.0.0.1:9", tmp_path)
    assert run.returncode != 0
    assert "set LOADTEST_PAYLOADS" in run.stdout


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
