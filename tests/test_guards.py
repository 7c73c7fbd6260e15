"""What no request may do to the others: bodies that lie, stall, or grow on the way in."""

import asyncio
import base64
import gzip
import json
import math
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import Message

from service.api.problems import describe, respond
from service.api.request.body import MAX_INFLATION, read_body
from service.api.request.media import read_media_type
from service.api.request.multipart import MAX_HEAD, read_parts
from service.api.request.payloads import MAX_JSON_BYTES, MAX_JSON_MARKS, parse_json
from service.api.v1 import predict, similarity
from service.api.v2.codec import MAX_ELEMENTS, MAX_VALUES
from service.errors import CallerGone, QueueFull, TooLarge
from service.settings import Settings
from tests.conftest import png
from tests.servers import served
from tests.test_routes import problem, serving, top

pytestmark = pytest.mark.anyio

RED = png((250, 10, 10))
JSON = {"content-type": "application/json"}
FORM = "multipart/form-data; boundary=xx"
HEAD = b'content-disposition: form-data; name="f"; filename="f"'


@pytest.fixture
async def client(small_models: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(small_models) as client:
        yield client


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """A multipart body of (headers, content)."""
    opened = b"".join(b"--xx\r\n%b\r\n\r\n%b\r\n" % part for part in parts)
    return opened + b"--xx--\r\n"


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress)],
)
async def test_a_compressed_body_is_inflated_whatever_it_holds(
    client: httpx.AsyncClient, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    document = json.dumps({"input": {"base64": base64.b64encode(RED).decode()}}).encode()
    for kind, body in (
        ("image/png", RED),
        (FORM, form((HEAD, RED))),
        ("application/json", document),
    ):
        headers = {"content-type": kind, "content-encoding": encoding}
        response = await client.post("/v1/image/classify", content=compress(body), headers=headers)
        assert top(response) == ["red"]
    body = compress(b'{"input": ["red", "red"]}')
    headers = {**JSON, "content-encoding": encoding}
    response = await client.post("/v1/text/similarity", content=body, headers=headers)
    assert response.json()["similarities"] == [[1, 1], [1, 1]]


async def test_a_body_that_is_not_compressed_may_say_so(client: httpx.AsyncClient) -> None:
    headers = {"content-encoding": "identity"}
    assert top(await client.post("/v1/image/classify", content=RED, headers=headers)) == ["red"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", ""])
async def test_other_encodings_are_refused_and_the_known_ones_named(
    client: httpx.AsyncClient, encoding: str
) -> None:
    headers = {"content-encoding": encoding}
    response = await client.post("/v1/image/classify", content=RED, headers=headers)
    assert "gzip or deflate" in problem(response, 415, "unknown_encoding")["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"red",
        gzip.compress(b"red")[:-1],
        gzip.compress(b"red") + b"red",
        zlib.compress(b"red"),
    ],
    ids=["nothing", "plain", "cut", "two", "deflate"],
)
async def test_a_body_that_is_not_what_its_encoding_says(
    client: httpx.AsyncClient, body: bytes
) -> None:
    headers = {"content-encoding": "gzip"}
    response = await client.post("/v1/text/embed", content=body, headers=headers)
    assert "gzip" in problem(response, 400, "bad_request")["detail"]


async def test_a_bomb_is_stopped_while_it_is_inflated(client: httpx.AsyncClient) -> None:
    compressor = zlib.compressobj(9, wbits=31)
    zeros = b"".join(compressor.compress(bytes(2**20)) for _ in range(20)) + compressor.flush()

    async def chunks() -> AsyncIterator[bytes]:
        yield zeros
        raise AssertionError("it was read on")

    headers = {"content-encoding": "gzip"}
    response = await client.post("/v1/image/classify", content=chunks(), headers=headers)
    assert f"{MAX_INFLATION} times" in problem(response, 413, "too_large")["detail"]


async def test_what_shrinks_well_and_is_small_is_no_bomb(client: httpx.AsyncClient) -> None:
    text = b"red " * 20_000
    body = gzip.compress(text)
    assert len(text) > MAX_INFLATION * len(body)
    headers = {"content-encoding": "gzip"}
    response = await client.post("/v1/text/embed", content=body, headers=headers)
    assert response.status_code == 200


async def test_the_limit_on_a_body_counts_what_it_is_inflated_to(small_models: Path) -> None:
    headers = {"content-encoding": "gzip"}
    async with serving(small_models, max_body_bytes=4096) as client:
        for size, status in ((4096, 200), (4097, 413)):
            body = gzip.compress(b"red " + b" " * (size - 4))
            response = await client.post("/v1/text/embed", content=body, headers=headers)
            assert response.status_code == status


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_body_that_does_not_come_is_not_waited_for(
    small_models: Path, encoding: str
) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield gzip.compress(b"red")[:9]
        await asyncio.Event().wait()

    headers = {"content-encoding": encoding}
    async with serving(small_models, body_seconds=0.05) as client:
        response = await client.post("/v1/text/embed", content=stalled(), headers=headers)
    assert "0.05 seconds" in problem(response, 408, "body_timeout")["detail"]
    assert response.headers["connection"] == "close"


async def test_the_deadline_of_a_request_covers_its_body(small_models: Path) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"red"
        await asyncio.Event().wait()

    headers = {"x-timeout-ms": "50"}
    async with serving(small_models, body_seconds=1) as client:
        response = await client.post("/v1/text/embed", content=stalled(), headers=headers)
    assert "raise X-Timeout-Ms" in problem(response, 504, "deadline_exceeded")["detail"]


@pytest.mark.parametrize(
    ("seconds", "header"), [(0.0, "1"), (1.2, "2"), (3601.0, "3600"), (math.inf, "3600")]
)
def test_nobody_is_sent_away_for_longer_than_an_hour(seconds: float, header: str) -> None:
    response = respond(describe(QueueFull("full"), "an-id"), "/v1/text/embed", seconds)
    assert response.headers["retry-after"] == header


async def test_a_client_that_leaves_is_no_fault_of_the_service() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises(CallerGone):
        await read_body(request, Settings(), deadline=math.inf)


V2 = {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["red"]}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/text/embed", {"input": "red"}),
        ("/v1/text/similarity", {"input": ["red", "sea"]}),
        ("/v1/text/classify?labels=red&labels=sea", {"input": "red"}),
        ("/v1/embeddings", {"model": "words", "input": "red"}),
        ("/v2/models/words/infer", V2),
    ],
)
async def test_work_that_waits_is_given_up_when_its_caller_leaves(
    client: httpx.AsyncClient, path: str, body: dict[str, object]
) -> None:
    app = client._transport.app  # type: ignore[attr-defined]
    served = app._app._api.state.sensorium.repository.pick("words")
    served.admission._busy = 3600.0  # more than anybody waits for
    messages: list[Message] = [
        {"type": "http.request", "body": json.dumps(body).encode()},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    path, _, query = path.partition("?")
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
    await app({**scope, "query_string": query.encode(), "headers": headers}, receive, send)
    assert sent[0]["status"] == 499


def test_a_form_s_parts_are_their_very_bytes() -> None:
    field = b'Content-Disposition: form-data; name="a b"\r\nContent-Type: text/plain'
    contents = [b"\r\n--x\r\n\r\n\x00\xff", b"", b"a--xx", b"caf\xc3\xa9"]
    body = form(
        (HEAD, contents[0]), (field, contents[1]), (HEAD, contents[2]), (field, contents[3])
    )
    expected = [("f", contents[0], "f"), ("a b", contents[1], None)]
    expected += [("f", contents[2], "f"), ("a b", contents[3], None)]
    quoted = 'multipart/form-data; charset=punycode; boundary="xx"'
    for given, kind in ((body, FORM), (b"before\r\n" + body + b"after", FORM), (body, quoted)):
        parts = read_parts(given, read_media_type(kind), most=4)
        assert [(part.name, part.content, part.filename) for part in parts] == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--xx",
        b"--xx\r\n",
        b"--xx--",
        b"--xx\r\n\r\nno name\r\n--xx--",
        form((b"content-disposition: form-data", b"no name")),
        form((HEAD, b"open"))[:-4],
        form((HEAD, b"x")).replace(b"\r\n", b"\n"),
        b"--xxx" + form((HEAD, b"x")),
        form((HEAD + b"\r\nx: " + b"y" * MAX_HEAD, b"too much before it")),
    ],
)  # fmt: skip
async def test_a_broken_form_is_a_bad_request(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"content-type": FORM}
    problem(
        await client.post("/v1/image/classify", content=body, headers=headers), 400, "bad_request"
    )


async def test_of_a_hundred_thousand_parts_no_more_are_read_than_may_be(
    client: httpx.AsyncClient,
) -> None:
    body = form(*[(HEAD, b"x")] * 257, (b"damaged", b"x")) * 400
    headers = {"content-type": FORM}
    response = await client.post("/v1/image/classify", content=body, headers=headers)
    assert "more than 256 parts" in problem(response, 413, "too_large")["detail"]


@pytest.mark.parametrize("depth", [1_000, 100_000])
async def test_deep_json_is_refused_in_words(client: httpx.AsyncClient, depth: int) -> None:
    body = b'{"input": ' + b"[" * depth + b"]" * depth + b"}"
    for path in ("/v1/image/classify", "/v1/text/similarity"):
        response = await client.post(path, content=body, headers=JSON)
        assert "too deep" in problem(response, 400, "bad_request")["detail"]


@pytest.mark.parametrize("value", [b"[],", b"{},", b"1,"])
def test_json_is_not_parsed_when_its_values_would_fill_the_memory(value: bytes) -> None:
    with pytest.raises(TooLarge, match="brackets and commas"):
        parse_json(value * (MAX_JSON_MARKS + 1))  # which is not even JSON


@pytest.mark.parametrize("value", [b"[],", b"{},", b"1,"])
async def test_tensors_in_json_are_not_parsed_either(
    client: httpx.AsyncClient, value: bytes
) -> None:
    body = b'{"inputs": [' + value * MAX_ELEMENTS  # which is not even JSON
    response = await client.post("/v2/models/colours/infer", content=body, headers=JSON)
    assert response.status_code == 413
    assert "brackets and commas" in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/v1/image/classify", lambda answer: problem(answer, 413, "too_large")["detail"]),
        ("/v2/models/colours/infer", lambda answer: answer.json()["error"]),
    ],
)
async def test_json_of_many_bytes_is_not_parsed(
    client: httpx.AsyncClient, path: str, read: Callable[[httpx.Response], str]
) -> None:
    response = await client.post(path, content=b" " * (MAX_JSON_BYTES + 1), headers=JSON)
    assert response.status_code == 413
    assert "the JSON exceeds 16,777,216 bytes" in read(response)


def test_a_long_text_in_json_is_not_counted_by_its_length() -> None:
    text = "a word, and another " * 50_000
    assert parse_json(json.dumps(text).encode()) == text


async def test_too_many_texts_are_not_compared(small_models: Path) -> None:
    async with serving(small_models, max_items=3) as client:
        body = {"input": ["red", "sea"], "against": ["cat", "dog"]}
        problem(await client.post("/v1/text/similarity", json=body), 413, "too_large")
        body["against"].pop()
        assert (await client.post("/v1/text/similarity", json=body)).status_code == 200


async def test_a_refusal_is_counted_by_its_code(client: httpx.AsyncClient) -> None:
    series = 'sensorium_rejections_total{code="unknown_encoding"} '

    async def count() -> float:
        text = (await client.get("/metrics")).text
        return float(text.partition(series)[2].split("\n")[0] or 0)

    before = await count()
    await client.post("/v1/image/classify", content=RED, headers={"content-encoding": "br"})
    assert await count() == before + 1


def test_a_slow_client_is_told_and_cut_off(small_models: Path) -> None:
    """On a real server: the connection ends, however much of the body is still to come."""
    with served(small_models, env={"SENSORIUM_BODY_SECONDS": "0.2"}) as url:
        port = httpx.URL(url).port
        assert port
        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            slow.sendall(b"POST /v1/text/embed HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nred")
            answer = b"".join(iter(lambda: slow.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_timeout"' in answer.replace(b": ", b":")


async def test_bodies_that_are_held_together_have_a_limit_too(small_models: Path) -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 900
        reading.set()
        await go_on.wait()

    async with serving(small_models, max_held_bytes=1000) as client:
        first = asyncio.create_task(client.post("/v1/text/embed", content=slow()))
        await reading.wait()
        refused = await client.post("/v1/text/embed", content=b"y" * 200)
        problem(refused, 503, "queue_full")
        assert refused.headers["retry-after"] == "1"
        go_on.set()
        assert (await first).status_code == 200
        assert (await client.post("/v1/text/embed", content=b"y" * 900)).status_code == 200


async def test_a_connection_whose_body_is_too_large_to_be_read_is_closed(
    small_models: Path,
) -> None:
    async with serving(small_models, max_body_bytes=100) as client:
        refused = await client.post("/v1/text/embed", content=b"y" * 200)
        problem(refused, 413, "too_large")
        assert refused.headers["connection"] == "close"


# What one request may make of itself


async def test_an_answer_holds_so_many_labels_and_no_more(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "MAX_LABELS", 8)
    picture = (HEAD, png((250, 10, 10)))
    headers, path = {"content-type": FORM}, "/v1/image/classify?model=colours&top_k=2"
    good = await client.post(path, content=form(*[picture] * 4), headers=headers)
    assert good.status_code == 200
    for query, count in (("", 5), ("&model=colours", 3)):
        body = form(*[picture] * count)
        response = await client.post(path + query, content=body, headers=headers)
        assert "lower top_k" in problem(response, 413, "too_large")["detail"]


@pytest.mark.parametrize("tensors", ["inputs", "outputs"])
@pytest.mark.parametrize("one", [1, {}, {"name": "a"}])
async def test_tensors_are_not_described_one_by_one(
    client: httpx.AsyncClient, tensors: str, one: Any
) -> None:
    several: dict[str, Any] = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}
    several[tensors] = [one] * 1000
    body = json.dumps(several).encode()
    response = await client.post("/v2/models/colours/infer", content=body, headers=JSON)
    assert response.status_code == 400
    assert f"{tensors}: List should have at most 64 items" in response.json()["error"]


async def test_lists_in_tensors_are_bounded_more_than_numbers(client: httpx.AsyncClient) -> None:
    body = b'{"inputs": [%s]}' % (b"[" * MAX_VALUES)
    response = await client.post("/v2/models/colours/infer", content=body, headers=JSON)
    assert response.status_code == 413
    assert "brackets and colons" in response.json()["error"]


async def test_of_many_unknown_names_one_is_told(client: httpx.AsyncClient) -> None:
    body = json.dumps({"input": ["a", "b"], **{f"x{n}": 1 for n in range(50_000)}}).encode()
    response = await client.post("/v1/text/similarity", content=body, headers=JSON)
    assert problem(response, 400, "bad_request")["detail"] == (
        "parameter x0 is unknown; known: input, against"
    )


def test_of_many_wrong_items_one_is_described() -> None:
    with pytest.raises(ValidationError) as raised:
        similarity.Comparison(input=[1] * 1000)
    assert raised.value.error_count() == 2  # it is no text, and its first item is none


async def test_half_of_a_surrogate_pair_is_no_name(client: httpx.AsyncClient) -> None:
    body = b'{"model": "\\ud800", "input": "a"}'
    response = await client.post("/v1/embeddings", content=body, headers=JSON)
    assert "there is no model ?" in problem(response, 404, "not_found")["detail"]
    body = b'{"\\ud800": 1}'
    response = await client.post("/v1/embeddings", content=body, headers=JSON)
    assert "parameter ?" in problem(response, 400, "bad_request")["detail"]


async def test_routing_is_read_as_any_other_document(client: httpx.AsyncClient) -> None:
    path = "/v2/repository/models/colours/routing"
    response = await client.put(path, content=b" " * (MAX_JSON_BYTES + 1), headers=JSON)
    assert response.status_code == 413
    aliases = {f"a{number}": "1" for number in range(33)}
    response = await client.put(path, json={"aliases": aliases})
    assert response.status_code == 400
    assert "at most 32" in response.json()["error"]
