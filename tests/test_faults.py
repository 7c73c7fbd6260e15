"""The scripts that do harm: what they send, what they see, and what they make of it."""

import asyncio
import json
import zlib
from asyncio import StreamReader, StreamWriter, start_server
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from loadtests.faults import __main__ as command
from loadtests.faults.bombs import BLOCK_BYTES, GZIP, packed_zeros
from loadtests.faults.endurance import Sample, draw
from loadtests.faults.examples import read_examples
from loadtests.faults.figures import Figure, Finding, show
from loadtests.faults.graphs import MARKER, SIDE, write_brittle, write_endless
from loadtests.faults.load import ask_for
from loadtests.wire import Answer, BrokenOff, Connections, post
from tests.conftest import write_loudness

CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[int, list[int]]]:
    """A port that gives every request this answer, and how many requests each connection sent."""
    asked: list[int] = []
    talks = []

    async def talk(reader: StreamReader, writer: StreamWriter) -> None:
        talks.append(asyncio.current_task())
        asked.append(0)
        number = len(asked) - 1
        while await _next(reader):
            asked[number] += 1
            writer.write(answer)
            if b"close" in answer or b"half" in answer:
                break
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], asked
        await asyncio.gather(*filter(None, talks))


async def _next(reader: StreamReader) -> bytes:
    try:
        return await reader.read(2**16)
    except ConnectionError:  # the caller hung up
        return b""


# Figures


def test_a_figure_holds_within_its_limits() -> None:
    assert Figure("read me", 5).holds
    assert Figure("share", 0.9, least=0.9).holds
    assert not Figure("share", 0.89, least=0.9).holds
    assert not Figure("ms", 201, most=200).holds
    assert Figure("status", 0, least=0, most=0).limit == "at least 0, at most 0"


def test_the_table_marks_what_fails() -> None:
    finding = Finding("bombs", 2, (Figure("ms", 17.25, most=200), Figure("MiB", 101, most=100)))
    assert not finding.holds
    lines = show([finding]).splitlines()
    assert lines[2] == "| bombs | 2 | ms | 17.25 | at most 200 |  |"
    assert lines[3] == "| bombs | 2 | MiB | 101 | at most 100 | FAILS |"


@pytest.mark.parametrize(("value", "status"), [(0, 0), (1, 1)])
def test_the_command_s_status_says_whether_all_holds(
    value: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(command.FAULTS, "x", lambda _: [Figure("faults", value, most=0)])
    assert command.main(["x", "--workers", "1", "--into", str(tmp_path)]) == status
    [finding] = json.loads((tmp_path / "results.json").read_text())["findings"]
    assert finding["figures"] == [{"what": "faults", "value": value, "least": None, "most": 0}]


def test_a_fault_of_no_known_name_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["earthquake"])
    assert "earthquake: none of corpus, bombs" in capsys.readouterr().err


# The wire


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "body", "sent"),
    [(LENGTH, b"{}", [2]), (CHUNKS, b"{}", [2]), (CLOSED, b"all of it", [1, 1])],
)
async def test_an_answer_is_read_to_its_end_and_the_connection_kept(
    answer: bytes, body: bytes, sent: list[int]
) -> None:
    async with answering(answer) as (port, asked), Connections(port) as connections:
        for _ in range(2):
            found = await connections.ask(post("/", "text/plain", b"x"))
            assert (found.status, found.body) == (200, body)
    assert asked == sent


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [b"half", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
async def test_half_an_answer_is_none(answer: bytes) -> None:
    async with answering(answer) as (port, _), Connections(port) as connections:
        with pytest.raises(BrokenOff):
            await connections.ask(post("/", "text/plain", b"x"))


# Good requests


def test_an_example_knows_its_right_answer(tmp_path: Path) -> None:
    write_loudness(tmp_path)
    [example] = read_examples(tmp_path)
    assert example.path == "/v1/audio/classify?model=loudness"

    def says(label: str, score: float, status: int = 200) -> bool:
        labels = [{"label": label, "score": score}]
        body = json.dumps({"results": [{"index": 0, "status": "ok", "labels": labels}]}).encode()
        return example.is_right(Answer(status, {}, body))

    assert says("loud", 1.0)
    assert not says("silent", 1.0)
    assert not says("whispered", 1.0)
    assert not says("loud", 0.5)
    assert not says("loud", 1.0, status=503)


@pytest.mark.anyio
async def test_answers_that_are_not_right_are_told_apart(tmp_path: Path) -> None:
    write_loudness(tmp_path)
    refusal = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
    async with answering(refusal) as (port, _):
        log = await ask_for(0.05, port, read_examples(tmp_path), at_once=2)
    assert set(log.statuses()) == {503}
    assert (log.right(), log.wrong()) == ([], log.asked)


# What does harm


def test_the_brittle_graph_fails_on_its_marker_alone(tmp_path: Path) -> None:
    write_brittle(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "brittle/1/model.onnx")
    pixels = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    pixels[1] = MARKER - 1
    [vector] = session.run(["vector"], {"pixels": pixels})
    assert vector.tolist() == [[0], [MARKER - 1], [0]]
    pixels[2, 0, 0, 0] = MARKER
    with pytest.raises(Exception, match="out of data bounds"):
        session.run(["vector"], {"pixels": pixels})


def test_the_endless_graph_ends_without_its_marker(tmp_path: Path) -> None:
    write_endless(tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "endless/1/model.onnx")
    pixels = np.full((2, SIDE, SIDE, 3), MARKER - 1, np.uint8)
    [vector] = session.run(["vector"], {"pixels": pixels})
    assert vector.tolist() == [[MARKER - 1], [MARKER - 1]]


def test_packed_zeros_are_what_they_claim() -> None:
    packed = packed_zeros(3 * BLOCK_BYTES, GZIP)
    assert len(packed) < 100_000
    assert zlib.decompressobj(GZIP).decompress(packed[:-8]) == bytes(3 * BLOCK_BYTES)


def test_an_hour_is_drawn(tmp_path: Path) -> None:
    draw([Sample(minute, 500.0, 60, 12) for minute in range(3)], tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_poison_against_a_real_server(tmp_path: Path) -> None:
    arguments = ["poison", "--workers", "1", "--quick", "--into", str(tmp_path)]
    assert command.main(arguments) == 0
    [finding] = json.loads((tmp_path / "results.json").read_text())["findings"]
    halved = [f["value"] for f in finding["figures"] if "halved" in f["what"]]
    assert min(halved) > 0
