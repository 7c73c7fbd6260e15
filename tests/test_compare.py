"""The comparison of servers: what it sends, what it reads, and what it makes of its figures."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from email import message_from_bytes
from email.policy import HTTP
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tokenizers import Tokenizer

from loadtests.compare import __main__ as command
from loadtests.compare import arrivals, environments, payloads, plots
from loadtests.compare.answers import Disagreement, check
from loadtests.compare.arrivals import Visit, come_and_go, summarise
from loadtests.compare.ceiling import CeilingFailed, run_in_process
from loadtests.compare.comparison import Plan, turned
from loadtests.compare.contestants import CONTESTANTS, contestant
from loadtests.compare.dialects import BASE64, FORM, OPEN_INFERENCE, PLAIN, SENSORIUM, Body
from loadtests.compare.outcome import Outcome, percentile
from loadtests.compare.payloads import add_grain, make_payloads, mixed_lengths, write_texts
from loadtests.compare.processes import parse_stat, running
from loadtests.compare.report import show, table, write_report
from loadtests.compare.results import (
    Loop,
    Measurement,
    Results,
    Spread,
    Start,
    best_other,
    rates,
    ratios,
    spread,
)
from loadtests.compare.servers import models as peers
from loadtests.compare.works import WORKS
from loadtests.compare.wrk import WrkFailed, parse_outcome
from service.model.model import load
from service.settings import Settings
from tests.conftest import write_colours
from tests.servers import PROJECT, small_server

MODELS = PROJECT / "models"
RECORDING = MODELS / "spoken-digits/1/example.wav"
IMPORTED = [MODELS / name / "1" for name in ("efficientnet-lite0", "all-minilm-l6-v2")]
with_imported_models = pytest.mark.skipif(
    not all((folder / "manifest.yaml").exists() for folder in IMPORTED),
    reason="the encoders are not imported: make models",
)


def outcome(answers: int, p99: float = 0.2, in_time: int | None = None) -> Outcome:
    return Outcome(answers, 0, 2.0, 0.1, 0.15, p99, 0.1, in_time)


def window(
    server: str,
    number: int,
    answers: int,
    loop: Loop = "closed",
    level: float = 8,
    batch: int = 0,
) -> Measurement:
    seen = outcome(answers, in_time=answers // 2 if loop == "open" else None)
    return Measurement(number, server, "photos", loop, level, batch, seen, 1.0)


def results() -> Results:
    """Two rounds; the second was slow for everybody."""
    found = Results(
        "2026-01-02T03:04:05+00:00",
        {"processor": "a fast one", "cores": 2, "memory_gib": 4, "system": "Linux", "commit": "c0"},
        {"rounds": 2, "seconds": 2, "overload": 3.0, "concurrency": [8]},
        missing={"ray": "not installed: no network"},
    )
    for number, slow in ((1, 1), (2, 2)):
        for server, answers in (("sensorium", 180), ("fastapi", 120), ("litserve", 60)):
            found.starts.append(Start(number, server, 2.5, 300 * 2**20, 400 * 2**20))
            found.measurements.append(window(server, number, answers // slow))
        found.measurements.append(window("sensorium", number, 88 // slow, "open", 270))
        found.measurements.append(window("ceiling", number, 200 // slow, "ceiling", 8, 4))
        found.measurements.append(window("ceiling", number, 120 // slow, "ceiling", 8, 1))
    return found


# Figures


def test_a_spread_is_the_median_and_the_ends() -> None:
    assert spread([3, 1, 2]) == Spread(2, 1, 3)
    assert spread([]) is None
    assert show(spread([3, 1, 2]), 0) == "2 (1 to 3)"
    assert show(spread([0.5]), 2) == "0.50"
    assert show(None) == "-"


def test_ratios_are_taken_round_by_round_so_that_a_slow_round_slows_both() -> None:
    found = results()
    ours = rates(found.windows("sensorium", "photos", "closed", 8))
    assert ours == {1: 90, 2: 45}
    assert ratios(ours, found.ceilings("photos", 8)) == Spread(0.9, 0.9, 0.9)
    assert ratios(ours, {}) is None


def test_the_ceiling_is_the_best_way_to_loop() -> None:
    assert results().ceilings("photos", 8) == {1: 100, 2: 50}
    assert results().ceilings("photos", 1) == {}


def test_the_best_other_is_none_of_ours() -> None:
    [first, _] = best_other(results(), "photos", 8, "sensorium")
    assert first.server == "fastapi"
    assert best_other(results(), "photos", 99, "sensorium") == []


def test_percentiles_are_values_that_were_seen() -> None:
    values = list(range(1, 101))
    assert [percentile(values, p) for p in (50, 99, 100)] == [51, 100, 100]
    assert percentile([], 50) == 0


def test_a_window_is_long_enough_for_some_answers_on_each_connection() -> None:
    plan = Plan([], [], rounds=3, seconds=2, concurrency=[1, 8, 32], overload=3)
    assert plan.window(level=1, rate_alone=100) == 2
    assert plan.window(level=8, rate_alone=5) == 5
    assert plan.window(level=32, rate_alone=5) == 6
    assert plan.window(level=1, rate_alone=0) == 6
    assert plan.levels(WORKS["photos12"]) == [1, 8]


# Tables and pictures


def test_a_table_has_its_names_on_the_left() -> None:
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_report_has_figures_ratios_and_who_is_missing(tmp_path: Path) -> None:
    text = write_report(results(), tmp_path)
    assert (tmp_path / "results.md").read_text() == text
    assert "| sensorium | 8 | 67.5 (45.0 to 90.0) | 0.90 | 100.0 | 150.0 | 200.0 |" in text
    assert "| ceiling, batches of 4 | 8 | 75.0 (50.0 to 100.0) | 1.00 |" in text
    assert "| sensorium | 8 | fastapi | 1.50 | 1.00 | 1.00 |" in text
    assert "| sensorium | 270 | 16.5 (11.0 to 22.0) | 0.24 |" in text
    assert "| fastapi | 2.5 | 300 | 400 |" in text
    assert "| ray | not installed: no network |" in text


def test_the_pictures_are_drawn(tmp_path: Path) -> None:
    plots.draw(results(), tmp_path)
    for name in ("throughput.png", "latency.png", "overload.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300


# Clients


def test_wrk_speaks_in_its_last_line() -> None:
    line = {"answers": 7, "errors": 1, "seconds": 2.0, "p50": 0.1, "p95": 0.2, "p99": 0.3}
    output = f"Running 2s test @ http://127.0.0.1:1\n  7 requests\n\n{json.dumps(line)}\n"
    found = parse_outcome(output, 0.5)
    assert (found.answers, found.errors, found.p99, found.client_cpu_seconds) == (7, 1, 0.3, 0.5)
    assert found.rate == 3.5


@pytest.mark.parametrize("output", ["", "unable to connect", '{"answers": 1}'])
def test_wrk_without_a_result_is_an_error(output: str) -> None:
    with pytest.raises(WrkFailed, match="wrk said"):
        parse_outcome(output, 0.0)


def test_callers_of_the_lead_in_are_not_counted_and_late_answers_are_not_in_time() -> None:
    visits = [
        Visit(came=0.0, seconds=0.1, status=200),
        Visit(came=2.0, seconds=0.2, status=200),
        Visit(came=2.5, seconds=1.5, status=200),
        Visit(came=3.0, seconds=0.1, status=503),
        Visit(came=3.5, seconds=2.0, status=0),
    ]
    found = summarise(visits, 2.0, 0.1)
    assert (found.answers, found.in_time, found.errors) == (2, 1, 2)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
    ],
)
def test_callers_come_at_their_rate_and_are_answered(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "LEAD_IN_SECONDS", 0.1)
    bodies = [Body("text/plain", b"one"), Body("text/plain", b"two")]
    with small_server(answer) as (port, got):
        found = come_and_go(port, "/text?a=b", bodies, {"X-Timeout-Ms": "1000"}, 50, 0.3)
    assert (found.answers, found.errors) == (15, 0)
    assert len(got) == 20
    assert got[0].startswith(b"POST /text?a=b HTTP/1.1\n")
    assert b"X-Timeout-Ms: 1000\n" in got[0]
    assert sorted(request[-3:] for request in got) == [b"one"] * 10 + [b"two"] * 10


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", b"HTTP/1.1 2", b"no such protocol\r\n"],
)
def test_half_an_answer_is_none(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "LEAD_IN_SECONDS", 0.0)
    monkeypatch.setattr(arrivals, "PATIENCE_SECONDS", 0.2)
    with small_server(answer) as (port, _):
        found = come_and_go(port, "/", [Body("text/plain", b"x")], {}, 50, 0.2)
    assert (found.answers, found.errors) == (0, 10)


def test_nobody_answers_at_a_closed_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "LEAD_IN_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    found = come_and_go(port, "/", [Body("text/plain", b"x")], {}, 50, 0.2)
    assert (found.answers, found.errors) == (0, 10)


def test_refused_callers_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "LEAD_IN_SECONDS", 0.0)
    with small_server(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") as (port, _):
        found = come_and_go(port, "/", [Body("text/plain", b"x")], {}, 50, 0.2)
    assert (found.answers, found.errors) == (0, 10)


# Dialects


def test_every_dialect_carries_the_payload_unchanged() -> None:
    payload = bytes(range(256))
    assert SENSORIUM.encode("photo", payload).content == payload
    assert PLAIN.encode("digit", payload) == Body("audio/wav", payload)
    in_json = json.loads(BASE64.encode("photo", payload).content)
    assert base64.b64decode(in_json["data"]) == payload
    [tensor] = json.loads(OPEN_INFERENCE.encode("photo", payload).content)["inputs"]
    assert base64.b64decode(tensor["data"][0]) == payload
    form = FORM.encode("photo", payload)
    head = f"Content-Type: {form.content_type}\r\n\r\n".encode()
    [part] = message_from_bytes(head + form.content, policy=HTTP).iter_parts()
    assert part.get_payload(decode=True) == payload


def test_texts_go_as_texts() -> None:
    payload = "a café".encode()
    assert json.loads(BASE64.encode("text", payload).content) == {"text": "a café"}
    assert json.loads(FORM.encode("text", payload).content) == {"texts": ["a café"]}
    [tensor] = json.loads(OPEN_INFERENCE.encode("text", payload).content)["inputs"]
    assert tensor["data"] == ["a café"]


def test_every_dialect_gives_the_answer() -> None:
    labels = {"labels": [{"label": "cat", "score": 0.9}]}
    assert SENSORIUM.read({"results": [{"index": 0, "status": "ok", **labels}]})["labels"]
    assert FORM.read([labels]) == labels
    texts = {"name": "labels", "data": [json.dumps(labels["labels"])]}
    assert OPEN_INFERENCE.read({"outputs": [texts]}) == labels
    vector = {"name": "vector", "data": [0.5, 0.5]}
    assert OPEN_INFERENCE.read({"outputs": [vector]}) == {"vector": [0.5, 0.5]}


def test_another_answer_than_the_reference_is_found() -> None:
    def labels(*scores: tuple[str, float]) -> peers.Answer:
        return {"labels": [{"label": label, "score": score} for label, score in scores]}

    reference = labels(("cat", 0.5), ("dog", 0.48), ("sea", 0.02))
    check(labels(("cat", 0.9)), reference)
    check(labels(("dog", 0.9)), reference)  # as good as a tie
    for other in ("sea", "car"):
        with pytest.raises(Disagreement, match=f"it says {other}, the reference cat"):
            check(labels((other, 0.9)), reference)
    check({"vector": [2.0, 2.0]}, {"vector": [1.0, 1.0]})
    with pytest.raises(Disagreement, match=r"cosine with the reference is 0\.99"):
        check({"vector": [1.0, 1.1]}, {"vector": [1.0, 1.0]})
    with pytest.raises(Disagreement, match="a vector of 1 numbers, not 2"):
        check({"vector": [1.0]}, {"vector": [1.0, 1.0]})


# Payloads


@pytest.fixture
def few_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads as they are, but fewer of them and a smaller camera."""
    counts = {"photos": 2, "photos12": 1, "short": 8, "mixed": 64, "digits": 2}
    monkeypatch.setattr(payloads, "COUNTS", counts)
    monkeypatch.setattr(payloads, "CAMERA_SIZE", (1000, 750))
    monkeypatch.setattr(payloads, "CAMERA_BYTES", 300_000)


@pytest.mark.usefixtures("few_and_small")
def test_payloads_are_always_the_same_and_made_once(tmp_path: Path) -> None:
    first = make_payloads(tmp_path / "a", WORKS, None, RECORDING)
    second = make_payloads(tmp_path / "b", WORKS, None, RECORDING)
    assert {name: len(files) for name, files in first.items()} == payloads.COUNTS
    for name, files in first.items():
        contents = [path.read_bytes() for path in files]
        assert contents == [path.read_bytes() for path in second[name]], name
        assert len(set(contents)) == len(contents), name
    first["short"][0].write_bytes(b"mine")
    again = make_payloads(tmp_path / "a", WORKS, None, RECORDING)
    assert again["short"][0].read_bytes() == b"mine"


@pytest.mark.usefixtures("few_and_small")
def test_pictures_have_the_size_and_the_grain_of_a_camera(tmp_path: Path) -> None:
    files = make_payloads(tmp_path, WORKS, None, RECORDING)
    assert 60_000 < files["photos"][0].stat().st_size <= payloads.ORDINARY_BYTES
    assert 150_000 < files["photos12"][0].stat().st_size <= 300_000
    with Image.open(files["photos12"][0]) as picture:
        assert picture.size == (1000, 750)
        grey = np.asarray(picture.convert("L"), np.float32)
    assert np.median(np.abs(np.diff(grey))) > payloads.GRAIN / 2


def test_grain_has_its_strength() -> None:
    flat = Image.new("RGB", (200, 100), (128, 128, 128))
    grainy = np.asarray(add_grain(flat, np.random.default_rng(1)), np.float32)
    assert abs(grainy.std() - payloads.GRAIN) < 0.5


@pytest.mark.usefixtures("few_and_small")
def test_given_photographs_are_those_of_ordinary_size(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, size in (("a.jpg", 10), ("b.JPEG", 109_000), ("c.jpg", 112_000), ("d.txt", 110_000)):
        (folder / name).write_bytes(b"x" * size)
    assert [path.name for path in payloads.choose_photos(folder)] == ["b.JPEG", "c.jpg"]
    with pytest.raises(FileNotFoundError, match=r"no \.jpg"):
        payloads.choose_photos(tmp_path / "nothing")


def test_mixed_lengths_are_log_uniform() -> None:
    lengths = mixed_lengths()
    assert (min(lengths), max(lengths)) == (4, 256)
    low, high = (sum(a <= n < 2 * a for n in lengths) for a in (8, 64))
    assert abs(low - high) <= 2
    assert lengths != sorted(lengths)


@with_imported_models
def test_texts_have_the_length_in_tokens_that_they_should() -> None:
    tokenizer = Tokenizer.from_file(str(IMPORTED[1] / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    wanted = [4, 16, 200]
    texts = [text.decode() for text in write_texts(wanted)]
    assert [len(tokenizer.encode(text).ids) for text in texts] == wanted


# The others


def test_the_others_make_the_same_spectrograms() -> None:
    theirs = peers.Digits().decode(RECORDING)
    ours = load(MODELS / "spoken-digits/1", Settings()).decode(RECORDING.read_bytes()).data
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


@with_imported_models
def test_the_others_make_the_same_pixels_and_tokens() -> None:
    upright = Image.effect_noise((301, 207), 90).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    file = BytesIO()
    upright.save(file, "PNG", exif=exif)
    ours = load(IMPORTED[0], Settings()).decode(file.getvalue()).data
    file.seek(0)
    difference = np.abs(peers.Photos().decode(file).astype(int) - ours)
    assert difference.mean() < 0.5
    text = "Café, où l'on attend the ferry. " * 60
    theirs = peers.Texts().tokens(text)
    np.testing.assert_array_equal(theirs, load(IMPORTED[1], Settings()).decode(text.encode()).data)


@with_imported_models
def test_batched_texts_are_answered_as_each_alone() -> None:
    model = peers.Texts()
    samples = [model.tokens(text) for text in ("a cat", "the ferry leaves at seven, they say")]
    for together, alone in zip(model.predict(samples), samples, strict=True):
        check(together, model.predict([alone])[0])


@with_imported_models
def test_the_fastapi_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPARE_MODELS", str(MODELS))
    from loadtests.compare.servers.fastapi import app

    files = {"photo": "efficientnet-lite0/1/example.jpg", "digit": "spoken-digits/1/example.wav"}
    with TestClient(app) as client:
        for kind, file in files.items():
            payload = (MODELS / file).read_bytes()
            labels = client.post(f"/{kind}", content=payload).json()["labels"]
            assert labels[0]["score"] == max(label["score"] for label in labels)
        assert len(client.post("/text", content=b"a cat").json()["vector"]) == 384


def test_the_others_decode_and_compute_with_the_versions_that_serve() -> None:
    def pins(path: Path) -> set[str]:
        lines = (line.partition(";")[0].strip() for line in path.read_text().splitlines())
        shared = ("numpy", "onnxruntime", "pillow", "soundfile", "soxr", "tokenizers")
        return {line for line in lines if line.partition("==")[0] in shared}

    ours = pins(PROJECT / "requirements-serve.lock")
    names = {c.environment for c in CONTESTANTS.values() if c.environment}
    for name in names:
        theirs = pins(environments.REQUIREMENTS / f"{name}.txt")
        assert len(theirs) == 6
        assert theirs <= ours, name


def test_any_server_may_run_our_int8_graphs() -> None:
    assert contestant("litserve-int8").env == {"COMPARE_PRECISION": "int8"}
    assert contestant("sensorium-int8").env == {"SENSORIUM_PRECISION": "int8"}
    assert contestant("ray-int8").precision == "int8"
    assert contestant("ray").precision == "fp32"


def test_an_unknown_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--only", "triton"])
    assert "triton is none of sensorium, fastapi" in capsys.readouterr().err


def test_without_wrk_the_one_command_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert command.main([]) == 1
    assert "apt-get install wrk" in capsys.readouterr().err


def test_an_environment_that_is_there_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ray").mkdir()
    wanted = (environments.REQUIREMENTS / "ray.txt").read_text()
    (tmp_path / "ray/requirements.txt").write_text(wanted)
    environments.install("ray", tmp_path)
    assert capsys.readouterr().out == ""


# Processes and the ceiling


def test_a_process_is_read_even_if_its_name_looks_like_the_rest() -> None:
    fields = ["S", "7", *"0" * 9, "150", "50", *"0" * 6, "99"]
    found = parse_stat(f"42 (a) (b 1 2) {' '.join(fields)}")
    ticks = os.sysconf("SC_CLK_TCK")
    assert (found.id, found.parent, found.started) == (42, 7, 99)
    assert found.cpu_seconds == 200 / ticks


def test_a_server_ends_with_all_that_it_started(tmp_path: Path) -> None:
    program = (
        "import signal, subprocess, sys, time;"
        "child = 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)';"
        "subprocess.Popen([sys.executable, '-c', child]); time.sleep(60)"
    )
    command_line = [sys.executable, "-c", program]
    log = tmp_path / "log"
    with running(command_line, cwd=tmp_path, env=dict(os.environ), log=log) as tree:
        deadline = time.monotonic() + 10
        while len(tree.processes()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        ids = [process.id for process in tree.processes()]
        assert tree.pss_bytes() > tree.allocated_bytes() > 2**20
    while any(Path(f"/proc/{number}/exe").exists() for number in ids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_program_that_is_ended_ends_its_servers(tmp_path: Path, number: signal.Signals) -> None:
    program = """
import os, sys, time
from pathlib import Path
from loadtests.compare.processes import exit_with, running
def main():
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    with running(child, cwd=Path(), env={**os.environ}, log=Path(sys.argv[1])) as tree:
        print(tree.root.pid, flush=True)
        time.sleep(60)
exit_with(main)
"""
    command_line = [sys.executable, "-c", program, str(tmp_path / "log")]
    # As a shell starts what it puts into the background
    shell = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command_line]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        assert started.stdout is not None
        server = int(started.stdout.readline())
        started.send_signal(number)
        assert "the servers are stopped" in started.communicate(timeout=30)[1].decode()
    assert started.returncode == 130
    assert not Path(f"/proc/{server}").exists()


def test_a_paused_server_does_nothing_until_it_is_awake(tmp_path: Path) -> None:
    program = "import time\nwhile print(flush=True) is None: time.sleep(0.001)"
    command_line, log = [sys.executable, "-c", program], tmp_path / "log"

    def becomes(state: str) -> bool:
        """Whether it does within some seconds; T is stopped, S asleep between two lines."""
        for _ in range(500):
            stat = Path(f"/proc/{tree.root.pid}/stat").read_text()
            if stat.rpartition(")")[2].split()[0] == state:
                return True
            time.sleep(0.01)
        return False

    with running(command_line, cwd=tmp_path, env=dict(os.environ), log=log) as tree:
        assert becomes("S")
        with tree.paused():
            assert becomes("T")
            written = log.stat().st_size
            with tree.awake():
                assert becomes("S")
                while log.stat().st_size == written:
                    assert tree.root.poll() is None
            assert becomes("T")
        assert becomes("S")


def test_each_round_begins_with_another() -> None:
    assert [turned("abc", number) for number in (1, 2, 4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["a", "b", "c"],
    ]
    assert turned([], 2) == []


def test_the_ceiling_is_measured_with_what_serves(tmp_path: Path) -> None:
    folder = write_colours(tmp_path, name=WORKS["photos"].model)
    files = [folder / "example.png"]
    found, cpu_seconds = run_in_process(
        WORKS["photos"], files, tmp_path, loops=2, batch=2, seconds=0.2
    )
    assert found.answers > 2
    assert cpu_seconds > 0
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(CeilingFailed, match=r"model\.onnx"):
        run_in_process(WORKS["photos"], files, tmp_path, loops=1, batch=1, seconds=0.2)
