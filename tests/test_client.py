"""The Python client, against a real service and, for what one does rarely, a small server."""

import ast
import asyncio
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from sensorium_client import (
    AsyncClient,
    Classification,
    Client,
    Embedding,
    FileRefused,
    Item,
    NotSendable,
    RequestRefused,
    Unavailable,
    Unreachable,
    audio,
    image,
    text,
)
from sensorium_client.arrays import encode_png, encode_wav
from sensorium_client.exchange import FIRST_PAUSE, pause_after, read_retry_after
from sensorium_client.items import SUFFIXES, find_items
from sensorium_client.many import answer_all
from service.model.preprocessing.image import FORMATS
from tests.conftest import png, tone, write_small_models
from tests.servers import PROJECT, free_port, plain_environment, served

RED, GREEN, BLUE = (250, 10, 10), (10, 250, 10), (10, 10, 250)
LONG_RUN = "TEN_THOUSAND_FILES"
SECONDS = 120.0  # within which a command has to end


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    with served(models) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


# What is sent


def pixels(colour: tuple[int, int, int]) -> Any:
    return np.full((12, 9, 3), colour, np.uint8)


def test_a_picture_is_named_whatever_it_comes_as(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "green.PNG"
    path.write_bytes(png(GREEN))
    for source in (path, str(path), image(path), image(png(GREEN)), image(pixels(GREEN))):
        answer = client.classify(source)
        assert (answer.model, answer.version, answer.truncated) == ("colours", "1", False)
        assert answer.labels[0].label == "green"
        assert answer.labels[0].score > answer.labels[1].score


def test_a_recording_is_named_whatever_it_comes_as(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    path.write_bytes(tone(0.9))
    wave = 0.9 * np.sin(np.arange(1000))
    for source in (path, audio(tone(0.9)), audio(wave, rate=1000), audio(str(path))):
        assert client.classify(source, top_k=1).labels[0].label == "loud"


def test_a_text_is_embedded_and_classified_by_likeness(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "words.md"
    path.write_text("cat")
    for source in (text("cat"), text(b"cat"), text(path)):
        assert client.embed(source).vector == (0, 0, 0, 0, 0, 1, 0, 0)
        assert client.classify(source, labels=["dog", "cat"]).labels[0].label == "cat"


def test_a_text_longer_than_the_model_reads_says_so(client: Client) -> None:
    assert client.embed(text("sea " * 99)).truncated


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3), (5, 4, 4)])
def test_pixels_arrive_as_they_are(shape: tuple[int, ...]) -> None:
    sent = np.random.default_rng(0).integers(0, 256, shape, np.uint8)[::-1]
    with Image.open(io.BytesIO(encode_png(sent))) as picture:
        picture.load()
        assert np.array_equal(np.asarray(picture).reshape(shape), sent)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 2)])
def test_waves_arrive_as_they_are(dtype: type, shape: tuple[int, ...]) -> None:
    wave = np.random.default_rng(0).uniform(-1, 1, shape)
    sent = (wave * 32767).astype(dtype) if dtype is np.int16 else wave.astype(dtype)
    read = "int16" if dtype is np.int16 else "float32"
    received, rate = soundfile.read(io.BytesIO(encode_wav(sent, 8000)), dtype=read)
    assert rate == 8000
    assert np.array_equal(received.reshape(shape), sent.astype(read))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: image(np.zeros((4, 4, 3))), r"uint8.* this is float64\[4, 4, 3\]"),
        (lambda: image(np.zeros((4, 4, 2), np.uint8)), r"3 or 4 channels.*\[4, 4, 2\]"),
        (lambda: image(np.zeros(4, np.uint8)), r"\[4\]"),
        (lambda: audio(np.zeros(9, np.int32), rate=8000), "float.* or int16.* this is int32"),
        (lambda: audio(np.zeros((2, 9, 9)), rate=8000), "float64"),
        (lambda: audio(np.zeros((2, 8000)), rate=8000), "transposed"),
        (lambda: audio(np.zeros(9)), "rate"),
        (lambda: text("half \ud83d"), "surrogate"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(make: Callable[[], Item], sentence: str) -> None:
    with pytest.raises(NotSendable, match=sentence):
        make()


def test_a_file_that_cannot_be_sent_is_named(client: Client, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    (tmp_path / "photos.png").mkdir()
    for name, sentence in {
        "empty.png": "empty.png is empty",
        "none.png": "none.png: No such file",
        "none.pdf": "none.pdf: there is no such file or folder",
        "photo": "photo: there is no such file or folder",
        "report.pdf": "report.pdf: the suffix does not say what it is; name it: image",
        "photos.png": "photos.png: is a folder; classify_all and embed_all take folders",
    }.items():
        with pytest.raises(NotSendable, match=sentence):
            client.classify(tmp_path / name)


# What is answered


def test_many_files_are_answered_in_their_order(client: Client, tmp_path: Path) -> None:
    paints = {"red": RED, "green": GREEN, "blue": BLUE}
    expected = [*paints] * 20
    for number, name in enumerate(expected):
        (tmp_path / f"{number:02}.png").write_bytes(png(paints[name]))
    answers = list(client.classify_all(tmp_path, concurrency=3))
    assert [Path(item.name).name for item, _ in answers] == [f"{n:02}.png" for n in range(60)]
    assert [best(answer) for _, answer in answers] == expected


def best(answer: object) -> str:
    assert isinstance(answer, Classification)
    return answer.labels[0].label


def test_a_bad_file_among_many_is_its_own_answer(client: Client, tmp_path: Path) -> None:
    red, blue = image(png(RED)), image(png(BLUE))
    sources: list[Item | Path] = [red, image(b"no picture"), tmp_path / "none.png", blue]
    first, torn, missing, last = [answer for _, answer in client.classify_all(sources)]
    assert (best(first), best(last)) == ("red", "blue")
    assert isinstance(torn, FileRefused)
    assert (torn.code, torn.status) == ("unreadable", 422)
    assert isinstance(missing, NotSendable)


def test_a_folder_gives_what_is_known_and_not_hidden(client: Client, tmp_path: Path) -> None:
    for name in ("a.png", "b/c.txt", "b/._c.txt", ".cache/d.png", "e.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(RED) if name.endswith("png") else b"red")
    answers = [(Path(item.name).name, answer) for item, answer in client.embed_all(tmp_path)]
    assert [name for name, _ in answers] == ["a.png", "c.txt"]
    assert all(isinstance(answer, Embedding) for _, answer in answers)


def test_a_folder_that_is_not_there_is_no_file_without_a_suffix(
    client: Client, tmp_path: Path
) -> None:
    with pytest.raises(NotSendable, match="photos: there is no such file or folder"):
        list(client.classify_all(tmp_path / "photos"))


# What the service reads; WAVE and others stand for their formats' less common suffixes.
SENT: dict[str, str] = {
    "image": "jpg JPG jpeg jpe jfif png apng webp gif bmp dib tif tiff TIFF avif heic HEIC heif"
    " ico mpo",
    "text": "txt text md",
    "audio": "wav wave flac ogg oga opus mp3 aif aiff aifc au snd caf w64 rf64 sph nist",
}


def test_all_that_the_service_reads_is_sent_from_a_folder(tmp_path: Path) -> None:
    for suffixes in SENT.values():
        for suffix in suffixes.split():
            (tmp_path / f"a.{suffix}").write_bytes(b"content")
    for other in ("a.pdf", "a.svg", "a.m4a", "a", "a.html", ".b.png"):
        (tmp_path / other).write_bytes(b"content")
    found = {(item.modality, Path(item.name).suffix) for item in find_items(tmp_path)}
    assert found == {(m, f".{s}") for m, suffixes in SENT.items() for s in suffixes.split()}


def test_every_suffix_of_an_image_format_that_the_service_reads_is_known() -> None:
    Image.init()
    read = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert {suffix: SUFFIXES.get(suffix) for suffix in read} == dict.fromkeys(read, "image")


@pytest.mark.parametrize(
    ("name", "modality"),
    [("a.svg", "image"), ("a.m4a", "audio"), ("a.csv", "text"), ("a.html", "text")],
)
def test_a_named_file_is_sent_though_the_service_may_not_read_it(
    tmp_path: Path, name: str, modality: str
) -> None:
    (tmp_path / name).write_bytes(b"content")
    assert [item.modality for item in find_items([tmp_path / name])] == [modality]
    assert list(find_items(tmp_path)) == []


def test_a_broken_link_in_a_folder_is_an_error_of_its_own(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(RED))
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    first, second = [answer for _, answer in client.classify_all(tmp_path)]
    assert best(first) == "red"
    assert isinstance(second, NotSendable)


def test_errors_carry_the_code_and_the_sentence_of_the_service(client: Client) -> None:
    with pytest.raises(FileRefused, match="not a supported image") as torn:
        client.classify(image(b"no picture"))
    assert (torn.value.code, torn.value.status) == ("unreadable", 422)
    assert re.fullmatch("[0-9a-f]{32}", torn.value.request_id)
    with pytest.raises(RequestRefused, match="nowhere") as unknown:
        client.classify(image(png(RED)), model="nowhere")
    assert (unknown.value.code, unknown.value.status) == ("not_found", 404)
    with pytest.raises(RequestRefused, match="top_k"):
        list(client.classify_all([image(png(RED))], top_k=0))


def test_the_async_client_does_the_same(url: str) -> None:
    async def ask() -> None:
        async with AsyncClient(url) as client:
            assert best(await client.classify(image(png(RED)))) == "red"
            assert len((await client.embed(text("cat"))).vector) == 8
            found = [best(a) async for _, a in client.classify_all([image(png(BLUE))] * 9)]
            assert found == ["blue"] * 9
            vectors = [a async for _, a in client.embed_all(map(text, ("cat", "dog")))]
            assert vectors[0] != vectors[1]

    asyncio.run(ask())


def test_the_client_works_inside_a_running_loop_as_in_a_notebook(client: Client) -> None:
    async def cell() -> str:
        return best(client.classify(image(png(GREEN))))

    assert asyncio.run(cell()) == "green"


def test_threads_may_share_a_client(client: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(client.classify, [image(png(RED)), image(png(BLUE))] * 20)
    assert [best(answer) for answer in found] == ["red", "blue"] * 20


def test_who_stops_listening_may_go_on_with_something_else(client: Client) -> None:
    for _, answer in client.classify_all(image(png(RED)) for _ in range(10**9)):
        assert best(answer) == "red"
        break
    assert best(client.classify(image(png(BLUE)))) == "blue"


# Time and trouble


@dataclass(frozen=True, slots=True)
class Reply:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = json.dumps(
        {
            "model": "m",
            "version": "1",
            "results": [{"index": 0, "status": "ok", "labels": [{"label": "a", "score": 1.0}]}],
        }
    ).encode()


@dataclass(frozen=True, slots=True)
class Arrival:
    time: float  # monotonic, seconds
    headers: Mapping[str, str]


BUSY = json.dumps({"detail": "512 items wait", "code": "queue_full"}).encode()


@contextmanager
def answering(reply: Callable[[int], Reply]) -> Iterator[tuple[str, list[Arrival]]]:
    """A server that answers its nth request as told, and what has arrived there."""
    arrivals: list[Arrival] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            arrivals.append(Arrival(time.monotonic(), dict(self.headers)))
            answer = reply(len(arrivals) - 1)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Nothing: pytest shows what went wrong."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", arrivals
        finally:
            server.shutdown()
            thread.join()


def in_turn(*replies: Reply) -> Callable[[int], Reply]:
    return lambda number: replies[number]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed(status: int) -> None:
    busy = Reply(status, {"Retry-After": "1"}, BUSY)
    with answering(in_turn(busy, Reply())) as (url, arrivals), Client(url) as client:
        assert best(client.classify(text("a"))) == "a"
    first, second = arrivals
    assert second.time - first.time >= 1
    assert first.headers["X-Request-Id"] == second.headers["X-Request-Id"]


def test_nobody_waits_when_retry_after_is_beyond_the_time() -> None:
    busy = Reply(503, {"Retry-After": "3600"}, BUSY)
    with (
        answering(in_turn(busy)) as (url, arrivals),
        Client(url) as client,
        pytest.raises(Unavailable, match="512 items wait") as full,
    ):
        client.classify(text("a"))
    assert (full.value.code, full.value.retry_after) == ("queue_full", 3600)
    assert len(arrivals) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_may_pass_is_asked_again_until_the_time_is_up(status: int) -> None:
    with (
        answering(lambda _: Reply(status, {}, b"")) as (url, arrivals),
        Client(url, timeout=1.0) as client,
        pytest.raises(Unavailable) as away,
    ):
        client.classify(text("a"))
    assert away.value.code == f"http_{status}"
    assert len(arrivals) >= 2
    left = [int(arrival.headers["X-Timeout-Ms"]) for arrival in arrivals]
    assert left == sorted(left, reverse=True)
    assert left[0] <= 1000


@pytest.mark.parametrize("status", [400, 401, 404, 422, 500])
def test_what_will_not_pass_is_asked_once(status: int) -> None:
    with (
        answering(in_turn(Reply(status, {}, b"<html>"))) as (url, arrivals),
        Client(url) as client,
        pytest.raises((RequestRefused, FileRefused)) as refused,
    ):
        client.classify(text("a"))
    assert f"answered {status}" in str(refused.value)
    assert len(arrivals) == 1


def test_an_answer_that_is_not_sensoriums_is_no_answer() -> None:
    with (
        answering(in_turn(Reply(200, {}, b"<html>"))) as (url, _),
        Client(url) as client,
        pytest.raises(RequestRefused, match="is it Sensorium"),
    ):
        client.classify(text("a"))


def test_a_service_that_is_not_there_is_unreachable() -> None:
    with (
        Client(f"http://127.0.0.1:{free_port()}", timeout=0.5) as client,
        pytest.raises(Unreachable, match=r"127\.0\.0\.1:\d+: "),
    ):
        client.classify(text("a"))


def test_a_service_that_never_answers_is_left_when_the_time_is_up() -> None:
    over = threading.Event()

    def never(_: int) -> Reply:
        over.wait()
        return Reply()

    with answering(never) as (url, _), Client(url, timeout=0.1) as client:
        with pytest.raises(Unreachable, match=r"no answer within 0\.1 s"):
            client.classify(text("a"))
        over.set()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """As at a terminal: whoever starts the tests in the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_call_and_not_the_client() -> None:
    hold = threading.Event()

    def interrupt(number: int) -> Reply:
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)
        if number >= 5:
            hold.wait()
        return Reply()

    with answering(interrupt) as (url, arrivals), Client(url) as client:
        with pytest.raises(KeyboardInterrupt):
            list(client.classify_all(map(text, "abcdefghijkl"), concurrency=1))
        hold.set()
        for _ in range(5):
            assert best(client.classify(text("a"))) == "a"
    assert len(arrivals) == 6 + 5


def test_no_more_are_asked_at_a_time_than_was_said() -> None:
    now = most = 0

    async def ask(item: Item) -> str:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return item.read().decode()

    async def ask_all() -> list[object]:
        items = map(text, "abcdefghijkl")
        return [letter async for _, letter in answer_all(ask, items, 3, progress=False)]

    assert asyncio.run(ask_all()) == [*"abcdefghijkl"]
    assert most == 3


def test_somebody_has_to_be_asked(client: Client) -> None:
    with pytest.raises(ValueError, match="concurrency must be 1 or more"):
        next(client.classify_all([text("a")], concurrency=0))


def test_a_key_goes_as_a_bearer_token() -> None:
    with answering(in_turn(Reply())) as (url, arrivals), Client(url, api_key="k") as client:
        client.classify(text("a"))
    assert arrivals[0].headers["Authorization"] == "Bearer k"


def test_a_url_without_its_scheme_is_refused() -> None:
    with pytest.raises(Unreachable, match="localhost:3000 does not begin with http"):
        Client("localhost:3000")


def test_pauses_grow_differ_and_stay_bounded() -> None:
    away = Unreachable("away")
    assert FIRST_PAUSE <= pause_after(0, away) <= 1.5 * FIRST_PAUSE
    assert 4 <= pause_after(10**6, away) <= 6
    assert len({pause_after(3, away) for _ in range(9)}) > 1
    full = Unavailable("full", "queue_full", 503, "", 7.0)
    assert all(7 <= pause_after(0, full) <= 10.5 for _ in range(99))


def test_retry_after_may_be_a_date() -> None:
    assert read_retry_after("12") == 12
    assert 50 < (read_retry_after(formatdate(time.time() + 60, usegmt=True)) or 0) <= 60
    assert read_retry_after("soon") is None
    assert read_retry_after("Mon, 01 Jan 2024 00:00:00 -0000") is None
    assert read_retry_after(None) is None


# The command


def start(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sensorium_client", *map(str, words)],
        cwd=PROJECT,
        env=plain_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*words: str | Path) -> tuple[int, str]:
    """The exit code, and what was said."""
    process = start(*words)
    _, said = process.communicate(timeout=SECONDS)
    return process.returncode, said


def read(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def wait_for_lines(journal: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until so many files are answered; the command has to run meanwhile."""
    deadline = time.monotonic() + SECONDS
    while not journal.exists() or journal.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def write_tones(folder: Path, count: int) -> list[Path]:
    """So many recordings, loud those with an odd number."""
    folder.mkdir()
    files = [folder / f"{number:05}.wav" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(tone(0.9 if number % 2 else 0.01))
    return files


def assert_answered_once(journal: Path, files: list[Path]) -> None:
    lines = read(journal)
    assert [line["file"] for line in lines] == [str(file) for file in files]
    for line, file in zip(lines, files, strict=True):
        assert line["status"] == "ok"
        assert line["labels"][0]["label"] == ("loud" if int(file.stem) % 2 else "silent")


def answer_while_the_server_restarts(
    models: Path, folder: Path, journal: Path, after: int
) -> tuple[int, str]:
    """The command's exit code and words; so many files are answered before the server stops."""
    port = free_port()
    with served(models, port=port) as url:
        process = start("classify", folder, "--jsonl", journal, "--url", url)
        wait_for_lines(journal, after, process)
    assert process.poll() is None, "it had answered all before the server was gone"
    with served(models, port=port):
        _, said = process.communicate(timeout=SECONDS)
    return process.returncode, said


def test_each_file_is_answered_once_though_the_server_restarts(
    models: Path, tmp_path: Path
) -> None:
    files = write_tones(tmp_path / "tones", 1000)
    journal = tmp_path / "out.jsonl"
    code, said = answer_while_the_server_restarts(models, tmp_path / "tones", journal, after=50)
    assert code == 0, said
    assert "again in" in said  # why it stood still
    assert "1,000 of 1,000 files are answered, 0 of them refused" in said
    assert_answered_once(journal, files)


@pytest.mark.skipif(LONG_RUN not in os.environ, reason=f"takes a minute; {LONG_RUN}=1 runs it")
def test_ten_thousand_recordings_are_answered_once_though_the_server_restarts(
    shared_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/spoken-digits").symlink_to(PROJECT / "models/spoken-digits")
    digits = sorted((shared_data / "digits").glob("*/*.wav"))
    for copy in range(4):
        (tmp_path / f"digits/{copy}").mkdir(parents=True)
        for digit in digits:
            (tmp_path / f"digits/{copy}/{digit.parent.name}-{digit.name}").symlink_to(digit)
    journal = tmp_path / "out.jsonl"
    began = time.monotonic()
    code, said = answer_while_the_server_restarts(
        tmp_path / "models", tmp_path / "digits", journal, after=4000
    )
    print(f"{time.monotonic() - began:.1f} s; {said}")
    assert code == 0, said
    lines = read(journal)
    names = [line["file"] for line in lines]
    assert names == sorted(str(path) for path in (tmp_path / "digits").rglob("*.wav"))
    assert len(names) == 10_000
    heard = {line["file"]: line["labels"][0]["label"] for line in lines}
    right = sum(label == Path(name).name.split("-")[0] for name, label in heard.items())
    assert right > 9_000


def test_a_line_is_there_as_soon_as_its_file_is_answered(tmp_path: Path) -> None:
    write_tones(tmp_path / "tones", 9)
    journal = tmp_path / "out.jsonl"
    hold = threading.Event()

    def answer_three(number: int) -> Reply:
        if number >= 3:
            hold.wait()
        return Reply()

    with answering(answer_three) as (url, _):
        words = (tmp_path / "tones", "--jsonl", journal, "--url", url, "--concurrency", "1")
        process = start("classify", *words)
        wait_for_lines(journal, 3, process)
        process.kill()
        process.communicate(timeout=SECONDS)
        hold.set()
    assert len(read(journal)) == 3


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupted_run_goes_on(url: str, tmp_path: Path) -> None:
    files = write_tones(tmp_path / "tones", 1000)
    journal = tmp_path / "out.jsonl"
    words = ("classify", tmp_path / "tones", "--jsonl", journal, "--url", url)
    process = start(*words)
    wait_for_lines(journal, 50, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, said
    assert "of 1,000 files are answered" in said
    assert "Traceback" not in said
    before = read(journal)
    assert 50 <= len(before) < 1000
    assert run(*words)[0] == 0
    assert read(journal)[: len(before)] == before
    assert_answered_once(journal, files)


def test_a_half_written_line_is_cut_off_and_its_file_asked_again(url: str, tmp_path: Path) -> None:
    files = write_tones(tmp_path / "tones", 5)
    journal = tmp_path / "out.jsonl"
    words = ("classify", tmp_path / "tones", "--jsonl", journal, "--url", url)
    assert run(*words)[0] == 0
    whole = journal.read_bytes()
    for cut in (1, 40, whole.rindex(b"\n", 0, -1) - len(whole) + 1):
        journal.write_bytes(whole[: -abs(cut)])
        assert run(*words)[0] == 0
        assert_answered_once(journal, files)


def test_a_file_that_is_named_twice_is_answered_once(url: str, tmp_path: Path) -> None:
    files = write_tones(tmp_path / "tones", 3)
    journal = tmp_path / "out.jsonl"
    code, _ = run(
        "classify", files[0], tmp_path / "tones", *files, "--jsonl", journal, "--url", url
    )
    assert code == 0
    assert_answered_once(journal, files)


def test_refused_files_have_their_line_and_unreadable_ones_have_none(
    url: str, tmp_path: Path
) -> None:
    torn, none, good = (tmp_path / name for name in ("torn.png", "none.png", "good.png"))
    torn.write_bytes(b"no picture")
    none.symlink_to(tmp_path / "gone.png")
    good.write_bytes(png(RED))
    journal = tmp_path / "out.jsonl"
    words = ("embed", torn, none, good, "--jsonl", journal, "--url", url)
    code, said = run(*words)
    assert code == 1
    assert f"left out: {none}: No such file" in said
    assert "2 of 3 files are answered, 1 of them refused" in said
    refused, answered = read(journal)
    assert (refused["status"], refused["error"]["code"]) == ("error", "unreadable")
    assert (answered["status"], len(answered["vector"])) == ("ok", 3)
    (tmp_path / "gone.png").write_bytes(png(BLUE))
    assert run(*words)[0] == 0
    assert [line["file"] for line in read(journal)] == [str(torn), str(good), str(none)]


def test_paths_that_do_not_exist_are_named_before_anything_is_sent(tmp_path: Path) -> None:
    good, journal = tmp_path / "good.png", tmp_path / "out.jsonl"
    good.write_bytes(png(RED))
    missing = [tmp_path / "lost.png", tmp_path / "photos"]
    with answering(lambda _: Reply()) as (url, arrivals):
        words: list[str | Path] = ["classify", good, *missing, "--jsonl", journal, "--url", url]
        code, said = run(*words)
        assert (code, len(arrivals)) == (1, 0)
        assert said == f"error: there is no such file or folder: {missing[0]}, {missing[1]}\n"
        missing[0].write_bytes(b"x")
        missing[1].mkdir()
        assert run(*words)[0] == 0
        missing[0].unlink()  # it has its answer
        assert run(*words)[0] == 0
    assert [line["file"] for line in read(journal)] == [str(good), str(missing[0])]


def test_a_wrong_question_stops_the_run_and_is_nobodys_answer(url: str, tmp_path: Path) -> None:
    write_tones(tmp_path / "tones", 3)
    journal = tmp_path / "out.jsonl"
    words = ("classify", tmp_path / "tones", "--jsonl", journal, "--url", url)
    code, said = run(*words, "--model", "nowhere")
    assert (code, journal.read_bytes()) == (1, b"")
    assert "error: " in said
    assert "nowhere" in said


def test_a_service_that_stays_away_ends_the_run(tmp_path: Path) -> None:
    write_tones(tmp_path / "tones", 3)
    nowhere = f"127.0.0.1:{free_port()}"
    words = ("classify", tmp_path / "tones", "--jsonl", tmp_path / "out.jsonl")
    code, said = run(*words, "--url", f"http://{nowhere}", "--timeout", "0.5")
    assert code == 1
    assert f"error: {nowhere}: " in said


def test_what_a_file_is_may_be_said(url: str, tmp_path: Path) -> None:
    (tmp_path / "reviews").mkdir()
    (tmp_path / "reviews/1.review").write_text("cat")
    journal = tmp_path / "out.jsonl"
    words = (tmp_path / "reviews", "--as", "text", "--jsonl", journal, "--url", url)
    assert run("classify", *words, "--top-k", "1", "--labels", "dog", "cat")[0] == 0
    assert [label["label"] for label in read(journal)[0]["labels"]] == ["cat"]


def test_a_journal_of_something_else_is_left_alone(url: str, tmp_path: Path) -> None:
    write_tones(tmp_path / "tones", 1)
    journal = tmp_path / "out.jsonl"
    words = (tmp_path / "tones", "--jsonl", journal, "--url", url)
    for content, sentence in {
        '{"file": "a.wav", "task": "embed", "status": "ok"}\n': "out.jsonl:1: embed, not classify",
        "\n": "out.jsonl:1: not a line of this command",
        "some notes\nof mine": "out.jsonl:1: not a line of this command",
        "a note": "out.jsonl:1: not a line of this command",
    }.items():
        journal.write_text(content)
        code, said = run("classify", *words)
        assert (code, journal.read_text()) == (1, content)
        assert sentence in said


def test_two_runs_do_not_write_one_journal(tmp_path: Path) -> None:
    write_tones(tmp_path / "tones", 1)
    journal = tmp_path / "out.jsonl"
    hold = threading.Event()
    arrived = threading.Event()

    def wait(_: int) -> Reply:
        arrived.set()
        hold.wait()
        return Reply()

    with answering(wait) as (url, _):
        words = ("classify", tmp_path / "tones", "--jsonl", journal, "--url", url)
        first = start(*words)
        assert arrived.wait(SECONDS)
        code, said = run(*words)
        hold.set()
        first.communicate(timeout=SECONDS)
    assert (first.returncode, code) == (0, 1)
    assert "another run is writing it" in said


@pytest.mark.parametrize(
    ("before", "shown"),
    [("", "4/4 "), ("import sys; sys.modules['tqdm'] = None; ", "\r4 of 4 files")],
)
def test_progress_is_shown_on_a_terminal(url: str, tmp_path: Path, before: str, shown: str) -> None:
    write_tones(tmp_path / "tones", 4)
    words = [str(tmp_path / "tones"), "--jsonl", str(tmp_path / "out.jsonl"), "--url", url]
    program = f"{before}from sensorium_client.__main__ import main; main(['classify', *{words}])"
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 80))
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, stderr=its, check=True)
    os.close(its)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        assert shown in read_all(terminal).decode()


def read_all(terminal: io.RawIOBase) -> bytes:
    """All that was written, until the other end is closed, which Linux calls an error."""
    said = b""
    try:
        while part := terminal.read(4096):
            said += part
    except OSError:
        pass
    return said


# The package


def test_it_needs_httpx_and_nothing_else() -> None:
    known = {*sys.stdlib_module_names, "sensorium_client", "httpx"}
    only_types_or_optional = {"numpy", "tqdm"}
    for path in (PROJECT / "sensorium_client").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] in known | only_types_or_optional, path
            elif isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= known, path
    program = (
        "import sys; sys.modules.update(numpy=None, tqdm=None, service=None);"
        "import sensorium_client.__main__"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True)


DOCUMENT = (PROJECT / "docs/client.md").read_text()


def blocks(kind: str, here: str) -> list[str]:
    """The document's blocks of that kind, asking the service that runs here."""
    found = re.findall(rf"^```{kind}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return [block.replace("http://localhost:3000", here) for block in found]


def test_the_examples_of_the_document_run(url: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(png(RED))
    (tmp_path / "photos/torn.jpg").write_bytes(b"torn")
    (tmp_path / "reviews").mkdir()
    (tmp_path / "reviews/1").write_text("cat")
    environment = {**plain_environment(), "PYTHONPATH": str(PROJECT)}
    program = "\n".join(blocks("python", url))
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    [commands] = blocks("sh", url)
    assert len(commands.splitlines()) == 2
    for command in commands.splitlines():
        here = command.replace("python", sys.executable, 1) + f" --url {url}"
        subprocess.run(here, shell=True, cwd=tmp_path, env=environment, check=True)
    [documented] = blocks("json", url)
    found = read(tmp_path / "out.jsonl")
    expected = [json.loads(line) for line in documented.splitlines()]
    for line, example in zip(found, expected, strict=True):
        assert line["file"] == example["file"]
        assert list(line) == list(example)
    assert "vector" in read(tmp_path / "vectors.jsonl")[0]
