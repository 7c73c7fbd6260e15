"""Transport: what a request's head and its encodings mean, whatever the route."""

import asyncio
import gzip
import json
import random
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from service.api import build_api
from service.api.middleware.ingress import Ingress
from service.api.request.body import ALWAYS_INFLATED, MAX_MEMBERS, QUICKLY_INFLATED, Inflater
from service.keys import add_key
from service.settings import Settings
from tests.servers import served
from tests.test_routes import problem, serving

pytestmark = pytest.mark.anyio

EMBED = "/v1/text/embed"
BLOCKS = [gzip.compress(b"red ") for _ in range(3)]


@pytest.fixture
async def client(small_models: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(small_models) as client:
        yield client


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def named_gzip(data: bytes) -> bytes:
    """With a file's name and a comment in its header, as `gzip` writes it of a file."""
    plain = gzip.compress(data, mtime=0)
    return plain[:3] + b"\x18" + plain[4:10] + b"a.txt\0a comment\0" + plain[10:]


def stored(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=0)


# values of Content-Encoding, body -> status, part of the response; b"red" is what is meant
ENCODINGS: dict[str, tuple[list[str], bytes, int, str]] = {
    "none": ([], b"red", 200, ""),
    "identity": (["identity"], b"red", 200, ""),
    "identity, in capitals": (["IDENTITY"], b"red", 200, ""),
    "gzip": (["gzip"], gzip.compress(b"red"), 200, ""),
    "gzip, in capitals": (["GZip"], gzip.compress(b"red"), 200, ""),
    "gzip, with spaces": (["  gzip "], gzip.compress(b"red"), 200, ""),
    "gzip, stored": (["gzip"], stored(b"red"), 200, ""),
    "gzip, with a name": (["gzip"], named_gzip(b"red"), 200, ""),
    "x-gzip": (["x-gzip"], gzip.compress(b"red"), 200, ""),
    "X-GZIP": (["X-GZIP"], gzip.compress(b"red"), 200, ""),
    "gzip of two members": (["gzip"], gzip.compress(b"r") + gzip.compress(b"ed"), 200, ""),
    "x-gzip of three members": (
        ["x-gzip"],
        gzip.compress(b"r") + gzip.compress(b"e") + gzip.compress(b"d"),
        200,
        "",
    ),
    "gzip with an empty member": (["gzip"], gzip.compress(b"") + gzip.compress(b"red"), 200, ""),
    "gzip, then an empty member": (["gzip"], gzip.compress(b"red") + gzip.compress(b""), 200, ""),
    "deflate": (["deflate"], zlib.compress(b"red"), 200, ""),
    "deflate without its header": (["deflate"], raw_deflate(b"red"), 200, ""),
    "deflate, stored": (["deflate"], zlib.compress(b"red", 0), 200, ""),
    "gzip, stacked": (["gzip, gzip"], gzip.compress(gzip.compress(b"red")), 415, "once"),
    "gzip, repeated": (["gzip", "gzip"], gzip.compress(gzip.compress(b"red")), 415, "once"),
    "gzip and identity": (["gzip, identity"], gzip.compress(b"red"), 415, "once"),
    "deflate, then gzip": (["deflate", "gzip"], gzip.compress(zlib.compress(b"red")), 415, "once"),
    "identity, then gzip": (["identity", "gzip"], gzip.compress(b"red"), 415, "once"),
    "br": (["br"], b"red", 415, "gzip or deflate"),
    "zstd": (["zstd"], b"red", 415, "gzip or deflate"),
    "compress": (["compress"], b"red", 415, "gzip or deflate"),
    "aws-chunked": (["aws-chunked"], b"red", 415, "gzip or deflate"),
    "a parameter": (["gzip;q=1"], gzip.compress(b"red"), 415, "gzip or deflate"),
    "nothing": ([""], b"red", 415, "gzip or deflate"),
    "gzip that is none": (["gzip"], b"red", 400, "not gzip"),
    "gzip that is deflate": (["gzip"], zlib.compress(b"red"), 400, "not gzip"),
    "deflate that is gzip": (["deflate"], gzip.compress(b"red"), 400, "not deflate"),
    "deflate that is none": (["deflate"], b"red", 400, "deflate"),
    "gzip of nothing": (["gzip"], b"", 400, "is cut off"),
    "gzip, cut in its header": (["gzip"], gzip.compress(b"red")[:5], 400, "is cut off"),
    "gzip, cut": (["gzip"], gzip.compress(b"red")[:-1], 400, "is cut off"),
    "gzip, the second member cut": (
        ["gzip"],
        gzip.compress(b"red") + gzip.compress(b"red")[:-1],
        400,
        "is cut off",
    ),
    "gzip, then garbage": (["gzip"], gzip.compress(b"red") + b"red", 400, "not gzip"),
    "gzip with a wrong checksum": (
        ["gzip"],
        gzip.compress(b"red")[:-8] + b"\0\0\0\0" + gzip.compress(b"red")[-4:],
        400,
        "not gzip",
    ),
    "deflate, cut": (["deflate"], zlib.compress(b"red")[:-1], 400, "is cut off"),
    "deflate, then more": (["deflate"], zlib.compress(b"red") * 2, 400, "trailing bytes"),
    "gzip of too many members": (["gzip"], gzip.compress(b"") * (MAX_MEMBERS + 1), 413, "members"),
}


@pytest.mark.parametrize("size", [None, 1, 7])
async def test_encodings_of_a_body(client: httpx.AsyncClient, size: int | None) -> None:
    """Whole, and in pieces of a few bytes."""
    vector = (await client.post(EMBED, content=b"red")).json()["results"][0]["vector"]
    faults = []
    for name, (values, body, status, part) in ENCODINGS.items():

        async def pieces(body: bytes = body) -> AsyncIterator[bytes]:
            for start in range(0, len(body), size or len(body) or 1):
                yield body[start : start + (size or len(body))]

        fields = [("content-encoding", value) for value in values]
        response = await client.post(EMBED, content=pieces(), headers=fields)
        right = response.status_code == status and part in response.text
        if status == 200:
            right = right and response.json()["results"][0]["vector"] == vector
        if not right:
            faults.append(f"{name}: {response.status_code} {response.text[:300]}")
    assert not faults, "\n".join(faults)


CHUNKED = "chunked"
CODINGS = {
    CHUNKED: 200,
    "Chunked": 200,
    "gzip, chunked": 415,
    "deflate, chunked": 415,
    "gzip": 415,
    "identity": 415,
    "chunked, chunked": 415,
}


@pytest.mark.parametrize(("coding", "status"), CODINGS.items())
async def test_transfer_codings_that_nobody_undoes_are_refused(
    client: httpx.AsyncClient, coding: str, status: int
) -> None:
    headers = {"transfer-encoding": coding}
    response = await client.post(EMBED, content=b"red", headers=headers)
    assert response.status_code == status
    assert status == 200 or coding in problem(response, 415, "unknown_encoding")["detail"]


# HEAD, and a slash at the end


def plain_paths(verb: str) -> list[str]:
    paths = build_api().openapi()["paths"]
    names = {"{name}": "colours", "{version}": "1"}
    found = []
    for path, verbs in paths.items():
        if verb in verbs:
            for name, value in names.items():
                path = path.replace(name, value)
            found.append(path)
    return [*found, "/openapi.json"] if verb == "get" else found


async def test_every_route_of_get_answers_head_without_a_body(client: httpx.AsyncClient) -> None:
    for path in plain_paths("get"):
        full, head = await client.get(path), await client.head(path)
        assert head.status_code == full.status_code == 200, path
        assert head.content == b""
        assert head.headers["content-type"] == full.headers["content-type"]
        assert int(head.headers["content-length"]) > 0


async def test_head_is_refused_as_get_is(client: httpx.AsyncClient) -> None:
    for path, status in ((EMBED, 405), ("/nothing", 404), ("/v1/models/none", 404)):
        head = await client.head(path)
        assert (head.status_code, head.content) == (status, b"")
        assert (await client.get(path)).status_code == status


@pytest.mark.parametrize("verb", ["get", "post", "put"])
async def test_a_slash_at_the_end_changes_nothing(client: httpx.AsyncClient, verb: str) -> None:
    for path in plain_paths(verb):
        if path.endswith(("/load", "/unload", "/metrics", "/stats")):
            continue  # their answers change by themselves
        for slashes in ("/", "//"):
            plain = await client.request(verb, path, content=b"red")
            other = await client.request(verb, path + slashes, content=b"red")
            assert other.status_code == plain.status_code, path
            kept = ("request_id", "results", "status")
            first, second = plain.json(), other.json()
            if isinstance(first, dict):
                first, second = (
                    {k: v for k, v in d.items() if k not in kept} for d in (first, second)
                )
            assert first == second, path


async def test_a_slash_at_the_end_opens_no_door(small_models: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    add_key(keys, "alice", ["infer"])
    async with serving(small_models, keys=keys) as client:
        for path in ("/v1/models/", "/v2/repository/index/", "/metrics/", "//", "//v1/models"):
            expected = 200 if path == "//" else 401
            assert (await client.get(path)).status_code == expected, path


# Keys

GOOD, OTHER = "GOOD", "OTHER"  # stand for a key of scope infer, and one of scope metrics
HEADERS: dict[str, tuple[list[tuple[str, str]], int]] = {
    "Bearer": ([("authorization", "Bearer GOOD")], 200),
    "bearer": ([("authorization", "bearer GOOD")], 200),
    "BEARER": ([("authorization", "BEARER GOOD")], 200),
    "several spaces": ([("authorization", "Bearer   GOOD  ")], 200),
    "a tab": ([("authorization", "Bearer\tGOOD")], 200),
    "X-API-Key": ([("x-api-key", "GOOD")], 200),
    "X-API-Key in spaces": ([("x-api-key", "  GOOD ")], 200),
    "junk by bearer": ([("authorization", "bearer junk"), ("x-api-key", "GOOD")], 200),
    "junk by Bearer": ([("authorization", "Bearer junk"), ("x-api-key", "GOOD")], 200),
    "an empty bearer": ([("authorization", "Bearer "), ("x-api-key", "GOOD")], 200),
    "bearer alone": ([("authorization", "bearer"), ("x-api-key", "GOOD")], 200),
    "Basic": ([("authorization", "Basic YTpi"), ("x-api-key", "GOOD")], 200),
    "Digest": ([("authorization", 'Digest username="a"'), ("x-api-key", "GOOD")], 200),
    "an empty Authorization": ([("authorization", ""), ("x-api-key", "GOOD")], 200),
    "junk": ([("authorization", "%&/"), ("x-api-key", "GOOD")], 200),
    "a key of another scope": ([("authorization", "Bearer OTHER"), ("x-api-key", "GOOD")], 200),
    "the other way round": ([("authorization", "Bearer GOOD"), ("x-api-key", "OTHER")], 200),
    "junk in X-API-Key": ([("authorization", "Bearer GOOD"), ("x-api-key", "junk")], 200),
    "two of Authorization": (
        [("authorization", "Basic YTpi"), ("authorization", "Bearer GOOD")],
        200,
    ),
    "two of X-API-Key": ([("x-api-key", ""), ("x-api-key", "GOOD")], 200),
    "another scope alone": ([("x-api-key", "OTHER")], 403),
    "two keys of another scope": ([("authorization", "Bearer OTHER"), ("x-api-key", "OTHER")], 403),
    "junk twice": ([("authorization", "Bearer junk"), ("x-api-key", "junk")], 401),
    "a key as Basic": ([("authorization", "Basic GOOD")], 401),
    "a key without a scheme": ([("authorization", "GOOD")], 401),
    "an empty X-API-Key": ([("x-api-key", "")], 401),
    "two keys in one": ([("x-api-key", "GOOD GOOD")], 401),
    "none": ([], 401),
}


async def test_headers_that_bring_a_key(small_models: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    values = {GOOD: add_key(keys, "alice", ["infer"]), OTHER: add_key(keys, "bob", ["metrics"])}
    faults = []
    async with serving(small_models, keys=keys) as client:
        for name, (fields, status) in HEADERS.items():
            for word, key in values.items():
                fields = [(field, value.replace(word, key)) for field, value in fields]
            response = await client.get("/v1/models", headers=fields)
            if response.status_code != status:
                faults.append(f"{name}: {response.status_code} {response.text}")
    assert not faults, "\n".join(faults)


# Deadlines and memory


@pytest.mark.parametrize("path", [EMBED, "/v1/embeddings", "/v2/models/words/infer"])
async def test_a_deadline_covers_the_body(small_models: Path, path: str) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with serving(small_models, body_seconds=3600) as client:
        response = await client.post(path, content=stalled(), headers={"x-timeout-ms": "50"})
    assert response.status_code == 504
    assert "X-Timeout-Ms" in response.text


async def test_bytes_are_released_when_the_response_is_ready() -> None:
    """Not when it is sent: a client that does not read it holds no room."""
    unread = asyncio.Event()

    async def answer(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = Ingress(answer, Settings(max_held_bytes=1000))
    statuses: list[int] = []

    async def ask(read: bool) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": bytes(900)}

        async def send(message: Message) -> None:
            statuses.append(message.get("status", 0))
            if not read:
                unread.set()
                await asyncio.Event().wait()

        scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        await app(scope, receive, send)

    stalled = asyncio.create_task(ask(read=False))
    await unread.wait()
    await ask(read=True)
    assert statuses == [200, 200, 0]
    stalled.cancel()


@pytest.mark.parametrize("path", [EMBED, "/v1/image/classify", "/v2/models/words/infer"])
async def test_inflated_bytes_are_held_too(small_models: Path, path: str) -> None:
    packed = gzip.compress(bytes(2**19), 1)
    headers = {"content-encoding": "gzip"}
    async with serving(small_models, max_held_bytes=2**18) as client:
        for _ in range(2):
            response = await client.post(path, content=packed, headers=headers)
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
        assert (await client.post(EMBED, content=b"red")).status_code == 200


async def test_bytes_of_many_packed_bodies_are_held_together(small_models: Path) -> None:
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def unfinished(packed: bytes) -> AsyncIterator[bytes]:
        yield packed[:-1]
        waiting.set()
        await go_on.wait()
        yield packed[-1:]

    packed = gzip.compress(b"red " * 10_000)
    headers = {"content-encoding": "gzip"}
    async with serving(small_models, max_held_bytes=50_000) as client:
        first = asyncio.create_task(client.post(EMBED, content=unfinished(packed), headers=headers))
        await waiting.wait()
        refused = await client.post(EMBED, content=packed, headers=headers)
        problem(refused, 503, "queue_full")
        go_on.set()
        assert (await first).status_code == 200
        assert (await client.post(EMBED, content=packed, headers=headers)).status_code == 200


async def test_others_are_answered_while_a_body_is_inflated(client: httpx.AsyncClient) -> None:
    packed = gzip.compress(random.Random(0).randbytes(16 * ALWAYS_INFLATED), 1)
    headers = {"content-encoding": "gzip"}
    inflating = asyncio.create_task(client.post("/v1/image/embed", content=packed, headers=headers))
    edge = client._transport.app  # type: ignore[attr-defined]
    held = set()  # as others saw it, between two pieces
    while not inflating.done():
        assert (await client.get("/livez")).status_code == 200
        held.add(edge._held)
        await asyncio.sleep(0.001)  # threads need the interpreter, too
    assert inflating.result().status_code == 422
    assert len(held) > 8


def test_a_body_is_inflated_in_pieces() -> None:
    inflater = Inflater("gzip", most=2**30)
    rest, whole = gzip.compress(bytes(range(256)) * 4096, 1), b""
    while rest:
        piece, rest = inflater.inflate(rest, QUICKLY_INFLATED)
        assert len(piece) <= QUICKLY_INFLATED
        whole += piece
    inflater.finish()
    assert whole == bytes(range(256)) * 4096


@pytest.mark.parametrize(("trusted", "status"), [(None, 429), ("127.0.0.1", 200)])
def test_a_client_s_word_for_its_address_counts_only_where_proxies_are_named(
    small_models: Path, trusted: str | None, status: int
) -> None:
    env = {"SENSORIUM_CLIENT_RATE": "0.001"}
    if trusted:
        env["FORWARDED_ALLOW_IPS"] = trusted
    with served(small_models, env=env) as url:
        answers = [
            httpx.get(f"{url}/v1/models", headers={"x-forwarded-for": f"198.51.100.{number}"})
            for number in range(3)
        ]
    assert [each.status_code for each in answers] == [200, status, status]
    assert json.loads(answers[0].content)["object"] == "list"
