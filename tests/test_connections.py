"""Connections of a real server: clients that stall, pipeline, upgrade, or break the protocol."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
import pytest

from service.api.connections import MAX_HEAD, MAX_PIPELINED, Config
from service.keys import add_key
from service.settings import Settings
from tests.conftest import write_small_models
from tests.servers import served

SECONDS = 30.0  # more than any test needs
LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LIMITS = {
    "SENSORIUM_STALL_SECONDS": "1",
    "SENSORIUM_BODY_SECONDS": "1",
    "SENSORIUM_STOP_SECONDS": "5",
    "SENSORIUM_MAX_BODY_BYTES": str(2**20),
    "SENSORIUM_MAX_ITEMS": "512",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(write_small_models(tmp_path_factory.mktemp("models")), env=LIMITS) as url:
        yield url


def connect(url: str, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(SECONDS)
    client.connect(("127.0.0.1", httpx.URL(url).port or 80))
    return client


def read_all(client: socket.socket) -> bytes:
    """All that comes until the server closes; TimeoutError if it does not."""
    received = b""
    try:
        while piece := client.recv(2**16):
            received += piece
    except ConnectionError:  # it closed with something unread
        pass
    return received


def exchange(url: str, request: bytes) -> bytes:
    """What the server sends before it closes the connection."""
    with connect(url) as client:
        with suppress(ConnectionError):  # it closed while this was sent
            client.sendall(request)
        return read_all(client)


def send_until_closed(client: socket.socket, data: bytes, pause: float = 0.0) -> None:
    """Send the data again and again, and read nothing; it fails if the server goes on."""
    deadline = time.monotonic() + SECONDS
    with suppress(ConnectionError):
        while time.monotonic() < deadline:
            client.sendall(data)
            time.sleep(pause)
        pytest.fail("the server has not closed the connection")


def status_of(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def post(path: str, body: bytes, *fields: bytes) -> bytes:
    """A request after which the server closes the connection."""
    length = (
        b"" if any(b"Transfer-Encoding" in f for f in fields) else b"Content-Length: %d" % len(body)
    )
    head = [f"POST {path} HTTP/1.1".encode(), b"Host: x", b"Connection: close", length, *fields]
    return b"\r\n".join(filter(None, head)) + b"\r\n\r\n" + body


# No progress


def test_headers_that_never_end_are_answered_and_the_connection_closed(url: str) -> None:
    response = exchange(url, b"GET /livez HTTP/1.1\r\nX-A: b")
    assert status_of(response) == 408
    assert b"headers were not complete" in response


def test_a_connection_that_sends_nothing_is_closed(url: str) -> None:
    assert exchange(url, b"") == b""


def drip(client: socket.socket, data: bytes) -> bool:
    """Send the data again and again; whether the server closes the connection meanwhile."""
    client.settimeout(0.2)
    for _ in range(100):
        try:
            client.sendall(data)
            if not client.recv(2**16):
                return True
        except TimeoutError:
            pass
        except ConnectionError:
            return True
    return False


def test_empty_lines_are_no_progress(url: str) -> None:
    with connect(url) as client:
        client.sendall(LIVE)
        assert status_of(client.recv(2**16)) == 200
        assert drip(client, b"\r\n")


def test_headers_that_come_by_the_byte_are_no_progress(url: str) -> None:
    with connect(url) as client:
        client.sendall(LIVE[:-2] + b"X-A: ")
        assert drip(client, b"a")


@pytest.mark.parametrize(
    ("head", "data"),
    [
        (b"Content-Length: 1000", b"a"),
        (b"Transfer-Encoding: chunked", b"1\r\na\r\n"),
        (b"Expect: 100-continue\r\nContent-Length: 1000", b"a"),
    ],
)
def test_the_body_of_an_answered_request_is_not_awaited_for_ever(
    url: str, head: bytes, data: bytes
) -> None:
    with connect(url) as client:
        client.sendall(b"POST /v1/text/embed?zz=1 HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
        assert status_of(client.recv(2**16)) == 400
        assert drip(client, data)


def test_an_endless_body_of_an_answered_request_is_not_read_for_ever(url: str) -> None:
    with connect(url) as client:
        client.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert status_of(client.recv(2**16)) == 404
        chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
        send_until_closed(client, chunk)


def do_not_read(url: str) -> socket.socket:
    """A client whose responses, 16 MB, fill the kernel's buffers, then the server's."""
    client = connect(url, receive_buffer=4096)
    body = json.dumps({"input": ["red"] * 512}).encode()
    request = post("/v1/text/similarity", body, b"Content-Type: application/json")
    client.sendall(request.replace(b"Connection: close\r\n", b"") * MAX_PIPELINED)
    return client


def test_a_client_that_does_not_read_is_disconnected(url: str) -> None:
    with do_not_read(url) as client:
        send_until_closed(client, b"\r\n", pause=0.1)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        with suppress(httpx.TransportError):
            if holds():
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_of(url: str) -> list[psutil.Process]:
    """The processes of one of this test's servers; the first has started the others."""
    port = str(httpx.URL(url).port)
    children = psutil.Process().children(recursive=True)
    return [each for each in children if each.environ().get("BENTOML_PORT") == port]


def test_a_worker_and_the_server_end_in_bounded_time(small_models: Path) -> None:
    limits = {**LIMITS, "SENSORIUM_STALL_SECONDS": "3600", "SENSORIUM_STOP_SECONDS": "1"}
    with served(small_models, env=limits) as url:
        with do_not_read(url):
            _, *workers = processes_of(url)
            for worker in workers:
                worker.terminate()
            assert not psutil.wait_procs(workers, SECONDS)[1]
        wait_until(lambda: httpx.get(f"{url}/livez").status_code == 200)
        unread = do_not_read(url)
    unread.close()  # `served` fails if the server did not end before


# Pipelining


@pytest.mark.parametrize(
    ("sent", "answered"), [(2, 2), (MAX_PIPELINED, MAX_PIPELINED), (1000, MAX_PIPELINED + 1)]
)
def test_pipelined_requests_are_answered_up_to_a_limit(url: str, sent: int, answered: int) -> None:
    response = exchange(url, LIVE * (sent - 1) + LAST)
    assert response.count(b"HTTP/1.1 200") == response.count(b'{"status":"alive"}') == answered


def test_many_pipelined_requests_hold_nobody_up(url: str) -> None:
    for _ in range(20):
        response = exchange(url, LIVE * 10_000)
        assert response.count(b"HTTP/1.1 200") == MAX_PIPELINED + 1
    assert httpx.get(f"{url}/livez").status_code == 200


@pytest.mark.parametrize("second", [b"\x16\x03\x01 nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX: "])
def test_what_follows_a_request_does_not_take_its_answer(url: str, second: bytes) -> None:
    response = exchange(url, post("/v1/text/embed", b"red").replace(b"close", b"x") + second)
    assert status_of(response) == 200
    assert response.count(b"HTTP/1.1") <= 2


# Upgrades, trailers, and what is not HTTP

CHUNKED = b"Transfer-Encoding: chunked"
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQ")
RED = b"3\r\nred\r\n0\r\n"
EMBED = "/v1/text/embed"

# request -> status, and a part of the response
VARIANTS: dict[str, tuple[bytes, int, bytes]] = {
    "plain": (post(EMBED, b"red"), 200, b"vector"),
    "h2c": (post(EMBED, b"red", *H2C), 200, b"vector"),
    "h2c, lower case": (post(EMBED, b"red", *(f.lower() for f in H2C)), 200, b"vector"),
    "h2c, chunked": (post(EMBED, RED + b"\r\n", *H2C, CHUNKED), 200, b"vector"),
    "h2c, then another request": (
        post(EMBED, b"red", *H2C).replace(b"Connection: close\r\n", b"") + LAST,
        200,
        b"alive",
    ),
    "h2c, twice": (
        post(EMBED, b"red", *H2C).replace(b"Connection: close\r\n", b"") + post(EMBED, b"", *H2C),
        200,
        b"no item",
    ),
    "h2c without a body": (LAST.replace(b"\r\nHost", b"\r\nUpgrade: h2c\r\nHost"), 200, b"alive"),
    "h2c, GET": (
        LIVE.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost") + LAST,
        200,
        b"alive",
    ),
    "TLS/1.2": (post(EMBED, b"red", b"Upgrade: TLS/1.2", b"Connection: upgrade"), 200, b"vector"),
    "a websocket": (
        LIVE.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: websocket\r\nHost") + LAST,
        200,
        b"alive",
    ),
    "an upgrade that is not offered to this hop": (
        post(EMBED, b"red", b"Upgrade: h2c"),
        200,
        b"vector",
    ),
    "trailer": (post(EMBED, RED + b"X-Request-Id: t\r\n\r\n", CHUNKED), 200, b"vector"),
    "trailer with a deadline": (
        post(EMBED, RED + b"X-Timeout-Ms: nonsense\r\n\r\n", CHUNKED),
        200,
        b"vector",
    ),
    "trailer with a length": (
        post(EMBED, RED + b"X-Length: 99999999\r\n\r\n", CHUNKED),
        200,
        b"vector",
    ),
    "trailer with an encoding": (
        post(EMBED, RED + b"Content-Encoding: gzip\r\n\r\n", CHUNKED),
        200,
        b"vector",
    ),
    "trailers without end": (
        post(EMBED, RED + b"X: y\r\n" * (MAX_HEAD // 3), CHUNKED),
        413,
        b"too_large",
    ),
    "a chunk extension": (post(EMBED, b"3;a=b\r\nred\r\n0\r\n\r\n", CHUNKED), 200, b"vector"),
    "chunks of a byte": (
        post(EMBED, b"1\r\nr\r\n1\r\ne\r\n1\r\nd\r\n0\r\n\r\n", CHUNKED),
        200,
        b"vector",
    ),
    "a chunk size that is none": (post(EMBED, b"zz\r\nred", CHUNKED), 400, b"chunk size"),
    "a chunk size without bounds": (post(EMBED, b"f" * 20 + b"\r\n", CHUNKED), 400, b"HTTP/1.1"),
    "two lengths that differ": (
        post(EMBED, b"red", b"Content-Length: 4"),
        400,
        b"Content-Length",
    ),
    "two lengths that agree": (post(EMBED, b"red", b"Content-Length: 3"), 400, b"Content-Length"),
    "a list of lengths": (
        post(EMBED, b"red").replace(b"Length: 3", b"Length: 3, 3"),
        400,
        b"Content-Length",
    ),
    "a length below zero": (
        post(EMBED, b"red").replace(b"Length: 3", b"Length: -3"),
        400,
        b"Content-Length",
    ),
    "a length with a sign": (
        post(EMBED, b"red").replace(b"Length: 3", b"Length: +3"),
        400,
        b"Content-Length",
    ),
    "a length in hexadecimal": (
        post(EMBED, b"red").replace(b"Length: 3", b"Length: 0x3"),
        400,
        b"Content-Length",
    ),
    "a length beyond 64 bits": (
        post(EMBED, b"red").replace(b"Length: 3", b"Length: " + b"9" * 30),
        400,
        b"Content-Length",
    ),
    "a length and chunks": (
        post(EMBED, RED + b"\r\n", CHUNKED, b"Content-Length: 3"),
        400,
        b"Transfer-Encoding",
    ),
    "chunks, then another coding": (
        post(EMBED, RED + b"\r\n", b"Transfer-Encoding: chunked, gzip"),
        400,
        b"Transfer-Encoding",
    ),
    "a space before the colon": (
        post(EMBED, b"red", b"Content-Type : text/plain"),
        400,
        b"header",
    ),
    "a folded header": (post(EMBED, b"red", b"X-A: b\r\n c"), 400, b"header"),
    "a line feed alone": (b"GET /livez HTTP/1.1\nHost: x\n\n", 400, b"bad_request"),
    "NUL in a header": (post(EMBED, b"red", b"X-A: b\0c"), 400, b"header"),
    "no method": (b"/livez HTTP/1.1\r\n\r\n", 400, b"method"),
    "an unknown method": (b"FETCH /livez HTTP/1.1\r\n\r\n", 400, b"method"),
    "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\n\r\n", 400, b"target"),
    "TLS": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 400, b"method"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b"HTTP/1.1"),
    "HTTP/0.9": (b"GET /livez\r\n\r\n", 200, b"alive"),
    "HTTP/1.0": (b"GET /livez HTTP/1.0\r\n\r\n", 200, b"alive"),
    "HTTP/9.9": (b"GET /livez HTTP/9.9\r\n\r\n", 400, b"version"),
    "a whole address": (LAST.replace(b"/livez", b"http://x/livez"), 200, b"alive"),
    "an address without a path": (LAST.replace(b"/livez", b"http://x"), 400, b"target"),
    "a path that is not ASCII": (LAST.replace(b"/livez", b"/liv\xe9z"), 400, b"url"),
    "a star": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404, b"not_found"),
    "a long path": (LAST.replace(b"/livez", b"/" + b"a" * 70_000), 400, b"target"),
    "a long header": (LIVE[:-2] + b"X-A: " + b"a" * 4 * MAX_HEAD, 413, b"too_large"),
    "many headers": (LIVE[:-2] + b"X-A: b\r\n" * MAX_HEAD, 413, b"too_large"),
    "a line without end": (b"GET /" + b"a" * 4 * MAX_HEAD, 413, b"too_large"),
    "empty lines first": (b"\r\n\r\n" + LAST, 200, b"alive"),
    "Expect": (post(EMBED, b"red", b"Expect: 100-continue"), 100, b"vector"),
    "Expect, in capitals": (post(EMBED, b"red", b"EXPECT: 100-CONTINUE"), 100, b"vector"),
    "Expect of another kind": (post(EMBED, b"red", b"Expect: 200-maybe"), 200, b"vector"),
    "Expect, refused unread": (
        post(EMBED + "?zz=1", b"red", b"Expect: 100-continue"),
        400,
        b"zz",
    ),
    "Expect without a body": (post(EMBED, b"", b"Expect: 100-continue"), 100, b"no item"),
}


def test_variants_of_the_protocol(url: str) -> None:
    faults = []
    for name, (request, status, part) in VARIANTS.items():
        response = exchange(url, request)
        if not response or status_of(response) != status or part not in response:
            faults.append(f"{name}: {response[:60]!r} ... {response[-300:]!r}")
    assert not faults, "\n".join(faults)


def test_a_trailer_brings_neither_a_key_nor_an_id(small_models: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    key = add_key(keys, "alice", ["infer"])
    fields = f"X-API-Key: {key}\r\nX-Request-Id: from-a-trailer\r\n\r\n".encode()
    with served(small_models, env={"SENSORIUM_KEYS": str(keys)}) as url:
        request = post(EMBED, RED + fields, CHUNKED)
        whole = exchange(url, request)
        assert status_of(whole) == 401
        with connect(url) as client:  # in pieces, so that the application runs in between
            head, _, trailers = request.partition(b"X-API-Key")
            client.sendall(head[: head.index(b"\r\n\r\n") + 4])
            client.sendall(head[head.index(b"\r\n\r\n") + 4 :] + b"X-API-Key" + trailers)
            assert status_of(read_all(client)) == 401
        known = exchange(url, post(EMBED, RED + fields, CHUNKED, b"X-API-Key: " + key.encode()))
        assert status_of(known) == 200
        assert b"from-a-trailer" not in known


# BentoML and its manager of processes


@pytest.mark.parametrize(("given", "seconds"), [(None, 30), (5, 5), (86_400, 30)])
def test_a_flag_may_only_shorten_the_end_of_a_worker(given: int | None, seconds: int) -> None:
    config = Config(Settings(), app="service.app:none", timeout_graceful_shutdown=given)
    assert config.timeout_graceful_shutdown == seconds
    assert not config.proxy_headers


def test_only_the_port_is_listened_on(url: str) -> None:
    listening = {
        connection.laddr.port
        for process in processes_of(url)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {httpx.URL(url).port}


@pytest.mark.parametrize("length", [0, 90, 150])
def test_control_sockets_are_in_a_folder_of_their_user(small_models: Path, length: int) -> None:
    with TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short) / ("d" * max(1, length - len(short) - 1))
        state = Path(short) / "state"
        folder.mkdir()
        env = {"TMPDIR": str(folder), "SENSORIUM_STATE": str(state)}
        with served(small_models, env=env) as url:
            paths = [
                Path(str(connection.laddr))
                for process in processes_of(url)
                for connection in process.net_connections("unix")
                if str(connection.laddr).endswith(("/control", "/events"))
            ]
            assert {path.name for path in paths} == {"control", "events"}
            assert {path.parent.stat().st_mode & 0o777 for path in paths} == {0o700}
            assert {folder in path.parents for path in paths} == {length < 80}
        assert not any(path.parent.exists() for path in paths)
