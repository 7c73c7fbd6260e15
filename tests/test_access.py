"""Who may ask, how much, and what is told of it: keys, quotas, browsers, the log, the start."""

import asyncio
import json
import logging
import re
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service import keys
from service.api import build_api
from service.api.middleware.quotas import Rate
from service.errors import OperatorError
from service.keys import Keys, add_key, read_keys
from service.logs import JsonFormatter
from service.settings import read_settings
from tests.conftest import png
from tests.servers import PROJECT, plain_environment
from tests.test_routes import problem, serving, top

pytestmark = pytest.mark.anyio

RED = png((250, 10, 10))
CLASSIFY = "/v1/image/classify"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text("# who may ask\n\n")
    return path


# Keys


async def test_without_a_key_there_is_no_answer(small_models: Path, key_file: Path) -> None:
    key = add_key(key_file, "alice", ["infer"])
    async with serving(small_models, keys=key_file) as client:
        for headers in ({}, bearer(""), {"authorization": "Basic YTpi"}, {"x-api-key": ""}):
            response = await client.post(CLASSIFY, content=RED, headers=headers)
            problem(response, 401, "unauthenticated")
            assert response.headers["www-authenticate"] == "Bearer"
        for headers in (bearer(key), {"authorization": f"bearer  {key}"}, {"x-api-key": key}):
            assert top(await client.post(CLASSIFY, content=RED, headers=headers)) == ["red"]


async def test_a_key_must_be_right_to_its_last_character(
    small_models: Path, key_file: Path
) -> None:
    key = add_key(key_file, "alice", ["infer"])
    other = add_key(key_file, "bob", ["infer"]).partition(".")[2]
    async with serving(small_models, keys=key_file) as client:
        for wrong in (key[:-1], key + "x", f"alice.{other}", key.replace("alice", "carol"), "."):
            response = await client.post(CLASSIFY, content=RED, headers=bearer(wrong))
            detail = problem(response, 401, "unauthenticated")["detail"]
            assert wrong not in detail or wrong == "."


async def test_health_asks_for_no_key_and_all_else_for_one(
    small_models: Path, key_file: Path
) -> None:
    async with serving(small_models, keys=key_file) as client:
        for path in ("/", "/livez", "/readyz"):
            assert (await client.get(path)).status_code == 200
        for path in ("/metrics", "/v1/models", "/openapi.json", "/nowhere", "/v1/"):
            problem(await client.get(path), 401, "unauthenticated")


async def test_the_contract_says_which_routes_want_a_key(
    small_models: Path, key_file: Path
) -> None:
    document = build_api().openapi()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    async with serving(small_models, keys=key_file) as client:
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                response = await client.request(method, path)
                assert (response.status_code == 401) == bool(operation["security"]), path


async def test_a_scope_is_good_for_its_own_and_nothing_else(
    small_models: Path, key_file: Path
) -> None:
    requests = {
        "infer": ("GET", "/v1/models"),
        "metrics": ("GET", "/metrics"),
        "admin": ("POST", "/v2/repository/index"),
    }
    async with serving(small_models, keys=key_file) as client:
        for name in requests:
            key = add_key(key_file, name, [name])
            for wanted, (method, path) in requests.items():
                response = await client.request(method, path, headers=bearer(key))
                if wanted == name:
                    assert response.status_code not in (401, 403)
                else:
                    assert response.status_code == 403
                    assert f"scope {wanted}" in response.text  # /v2 has a shape of its own
        both = add_key(key_file, "both", ["infer", "metrics"])
        for path in ("/metrics", "/v1/models"):
            assert (await client.get(path, headers=bearer(both))).status_code == 200


async def test_a_refused_body_is_not_read(small_models: Path, key_file: Path) -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    async with serving(small_models, keys=key_file) as client:
        problem(await client.post(CLASSIFY, content=unread()), 401, "unauthenticated")


def test_keys_come_and_go_without_a_restart(
    key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alice = add_key(key_file, "alice", ["infer"])
    known = Keys(key_file)
    before = key_file.read_text()
    bob = add_key(key_file, "bob", ["infer"])
    assert known.find(alice)
    assert known.find(bob)
    key_file.write_text(before)
    assert known.find(alice)
    assert known.find(bob) is None

    key_file.write_text("alice in")
    assert known.find(alice), "a half-written file locks nobody out"
    key_file.unlink()
    assert known.find(alice)
    assert [record.levelname for record in caplog.records].count("ERROR") == 2
    key_file.write_text("")
    assert known.find(alice) is None


def test_the_file_holds_no_key_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    key = add_key(path, "alice", ["infer", "admin"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key.partition(".")[2] not in path.read_text()
    again = add_key(path, "bob", ["metrics"])
    hashes = [line.split()[2:] for line in path.read_text().splitlines()]
    assert len({part for pair in hashes for part in pair}) == 4, "each has a salt of its own"
    found = Keys(path).find(key)
    assert found
    assert found.name == "alice"
    assert found.scopes == {"infer", "admin"}
    assert Keys(path).find(again)


def test_a_line_is_added_after_one_that_somebody_left_unfinished(key_file: Path) -> None:
    add_key(key_file, "alice", ["infer"])
    key_file.write_text(key_file.read_text().rstrip())
    add_key(key_file, "bob", ["infer"])
    assert list(read_keys(key_file)) == ["alice", "bob"]


@pytest.mark.parametrize("name", ["", "a b", "a.b", "ä", "x" * 65, "a\nb"])
def test_a_name_has_no_signs_that_the_file_needs(key_file: Path, name: str) -> None:
    with pytest.raises(OperatorError, match="a name has"):
        add_key(key_file, name, ["infer"])


def test_a_name_is_given_once(key_file: Path) -> None:
    add_key(key_file, "alice", ["infer"])
    with pytest.raises(OperatorError, match="already has a key alice"):
        add_key(key_file, "alice", ["infer"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("alice infer", "NAME SCOPE,SCOPE SALT HASH"),
        (
            f"alice root {'0' * 32} {'0' * 64}",
            "unknown scope root; the scopes are infer, admin, metrics",
        ),
        (f"alice infer {'0' * 30} {'0' * 64}", "32 digits"),
        (f"alice infer {'x' * 32} {'0' * 64}", "hex"),
    ],
)
def test_a_line_of_another_form_is_named(key_file: Path, line: str, words: str) -> None:
    key_file.write_text(f"# first\n{line}\n")
    with pytest.raises(OperatorError, match=rf"keys\.txt, line 2: .*{words}"):
        Keys(key_file)


def test_the_command_prints_a_key_once(
    key_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORIUM_KEYS", str(key_file))
    keys.main(["add", "alice", "--scope", "metrics"])
    keys.main(["add", "bob"])
    first, second = capsys.readouterr().out.split()
    assert [first.partition(".")[0], second.partition(".")[0]] == ["alice", "bob"]
    alice, bob = Keys(key_file).find(first), Keys(key_file).find(second)
    assert alice
    assert alice.scopes == {"metrics"}
    assert bob
    assert bob.scopes == {"infer"}
    with pytest.raises(SystemExit, match="already"):
        keys.main(["add", "bob"])


# Quotas


async def test_one_caller_has_no_more_inside_than_it_may(small_models: Path) -> None:
    async with serving(small_models, client_concurrency=2) as client:
        go, arrived = asyncio.Event(), asyncio.Semaphore(0)

        async def slow_body() -> AsyncIterator[bytes]:
            arrived.release()
            await go.wait()
            yield RED

        inside = [asyncio.create_task(client.post(CLASSIFY, content=slow_body())) for _ in "12"]
        for _ in inside:
            await arrived.acquire()
        refused = await client.post(CLASSIFY, content=RED)
        problem(refused, 429, "too_many_requests")
        assert refused.headers["retry-after"] == "1"
        for path in ("/", "/livez", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200, "health and metrics always answer"
        go.set()
        assert [top(response) for response in await asyncio.gather(*inside)] == [["red"]] * 2
        assert top(await client.post(CLASSIFY, content=RED)) == ["red"]


async def test_one_caller_comes_no_more_often_than_it_may(small_models: Path) -> None:
    async with serving(small_models, client_rate=0.01) as client:
        assert (await client.get("/v1/models")).status_code == 200
        refused = await client.get("/v1/models")
        problem(refused, 429, "too_many_requests")
        assert 95 <= int(refused.headers["retry-after"]) <= 100
        transport = client._transport
        assert isinstance(transport, httpx.ASGITransport)
        other = httpx.ASGITransport(transport.app, client=("192.0.2.7", 1))
        async with httpx.AsyncClient(transport=other, base_url="http://sensorium") as elsewhere:
            assert (await elsewhere.get("/v1/models")).status_code == 200


async def test_where_keys_are_asked_for_each_is_a_caller(
    small_models: Path, key_file: Path
) -> None:
    names = [add_key(key_file, name, ["infer"]) for name in ("alice", "bob")]
    async with serving(small_models, keys=key_file, client_rate=0.01) as client:
        for expected in (200, 429):
            for key in names:
                response = await client.get("/v1/models", headers=bearer(key))
                assert response.status_code == expected


def test_a_second_s_worth_may_come_at_once_and_then_the_rate_holds() -> None:
    rate = Rate(10)
    now = 1000.0  # to which ten tenths add a little more than 1
    assert [rate.take("a", now) for _ in range(10)] == [0] * 10
    assert rate.take("a", now) == pytest.approx(0.1, abs=1e-4)
    assert [rate.take(other, now) for other in "bcdefgh"] == [0] * 7
    assert rate.take("a", now + 0.1) == 0
    assert rate.take("a", now + 0.1) > 0
    assert [rate.take("a", now + 9) for _ in range(10)] == [0] * 10
    assert rate.take("a", now + 9) > 0, "what was not asked for long ago is not saved up"


def test_callers_that_are_gone_are_forgotten() -> None:
    rate = Rate(5)
    for number in range(10_000):
        rate.take(str(number), number / 100)
    assert len(rate._used_until) < 250


# CORS and headers


async def test_pages_of_other_origins_may_not_ask_unless_they_are_named(
    small_models: Path,
) -> None:
    asked = {
        "origin": "https://app.example.com",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-timeout-ms",
    }
    async with serving(small_models) as client:
        for response in (
            await client.options(CLASSIFY, headers=asked),
            await client.post(CLASSIFY, content=RED, headers=asked),
        ):
            assert not [name for name in response.headers if name.startswith("access-control")]
    async with serving(small_models, cors_origins="https://app.example.com") as client:
        response = await client.options(CLASSIFY, headers=asked)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://app.example.com"
        stranger = {**asked, "origin": "https://evil.example.com"}
        response = await client.options(CLASSIFY, headers=stranger)
        assert "access-control-allow-origin" not in response.headers


async def test_a_page_can_read_why_it_was_refused(small_models: Path, key_file: Path) -> None:
    settings = {"keys": key_file, "cors_origins": "*", "max_body_bytes": 10}
    async with serving(small_models, **settings) as client:
        for body, status in ((b"x", 401), (RED, 413)):
            headers = {"origin": "https://app.example.com"}
            response = await client.post(CLASSIFY, content=body, headers=headers)
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == "*"
            assert "X-Request-Id" in response.headers["access-control-expose-headers"]


async def test_every_answer_tells_browsers_to_be_careful(small_models: Path) -> None:
    async with serving(small_models, max_body_bytes=4096) as client:
        for response in (
            await client.get("/livez"),
            await client.post(CLASSIFY, content=RED),
            await client.post(CLASSIFY, content=b"x"),
            await client.post(CLASSIFY, content=b"x" * 5000),
            await client.get("/nowhere"),
        ):
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["cache-control"] == "no-store"
            assert "frame-ancestors 'none'" in response.headers["content-security-policy"]


# The log


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    """The records of the requests."""
    caplog.set_level(logging.INFO, "service")

    def read() -> list[logging.LogRecord]:
        return [r for r in caplog.records if r.name == "service.api.middleware.access_log"]

    return read


Lines = Callable[[], list[logging.LogRecord]]
V2 = {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["red"]}]}


async def test_a_line_tells_how_a_request_ended_and_where_its_time_went(
    small_models: Path, key_file: Path, lines: Lines
) -> None:
    key = add_key(key_file, "alice", ["infer"])
    async with serving(small_models, keys=key_file, log_share=1) as client:
        headers = {**bearer(key), "x-request-id": "abc-1"}
        await client.post(f"{CLASSIFY}?top_k=1", content=RED, headers=headers)
        [record] = lines()
    expected = (
        "request_id=abc-1 method=POST path=/v1/image/classify status=200 total_ms=N key=alice"
        " model=colours:1 decode_ms=N queue_ms=N inference_ms=N"
    )
    assert re.sub(r"_ms=[0-9.]+", "_ms=N", record.getMessage()) == expected
    fields = json.loads(JsonFormatter().format(record))
    assert fields["level"] == "info"
    assert fields["status"] == 200
    assert fields["model"] == "colours:1"
    assert fields["inference_ms"] <= fields["total_ms"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", fields["time"])


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v2/models/words/infer", V2, "words:1"),
        ("/v2/models/words/infer", {**V2, "outputs": [{"name": "no"}]}, "words:1"),
        ("/v1/text/preview", {"input": "red"}, "words:1"),
        ("/v1/text/similarity", {"input": ["red", "sea"]}, "words:1"),
        ("/v1/text/classify?labels=red", {"input": "red"}, "words:1"),
        ("/v1/embeddings", {"model": "words", "input": "red"}, "words:1"),
        ("/v1/image/classify?model=colours&model=colours", {"input": ""}, "colours:1,colours:1"),
    ],
)
async def test_a_line_names_the_models(
    small_models: Path, lines: Lines, path: str, body: dict[str, Any], model: str
) -> None:
    async with serving(small_models, log_share=1) as client:
        await client.post(path, json=body)
        [record] = lines()
    assert json.loads(JsonFormatter().format(record))["model"] == model


async def test_refusals_and_failures_have_their_line_too(
    small_models: Path, key_file: Path, lines: Lines
) -> None:
    settings = {"keys": key_file, "log_share": 1, "max_body_bytes": 4096}
    async with serving(small_models, **settings) as client:
        await client.post(CLASSIFY, content=RED)
        await client.post(CLASSIFY, content=b"x" * 5000)
        key = add_key(key_file, "alice", ["infer"])
        await client.post(CLASSIFY, content=b"x", headers=bearer(key))
    assert [json.loads(JsonFormatter().format(r))["status"] for r in lines()] == [401, 413, 422]


async def test_a_line_holds_nothing_that_a_caller_sent_but_the_path(
    small_models: Path, key_file: Path, caplog: pytest.LogCaptureFixture, lines: Lines
) -> None:
    key = add_key(key_file, "alice", ["infer"])
    async with serving(small_models, keys=key_file, log_share=1) as client:
        for headers in (bearer(key), {"x-api-key": key}, bearer(f"{key}x")):
            path = "/v1/text/classify?labels=confidential&labels=secret"
            await client.post(path, content=b"red sea", headers=headers)
        await client.get("/two%0Alines", headers=bearer(key))
    assert len(lines()) == 4
    assert "path=/two%0Alines" in lines()[-1].getMessage()
    for word in (key, key.partition(".")[2], "confidential", "red sea"):
        assert word not in caplog.text


async def test_a_share_of_the_requests_is_logged(small_models: Path, lines: Lines) -> None:
    async with serving(small_models, log_share=0.5) as client:
        for _ in range(200):
            await client.get("/livez")
    assert 50 < len(lines()) < 150  # once in 10^12 runs it is not


def test_json_lines_carry_other_messages_and_their_traceback() -> None:
    try:
        raise ValueError("what went wrong")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, "", 0, "request %s failed", ("a\nb",), sys.exc_info()
        )
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "request a\nb failed"
    assert "ValueError: what went wrong" in line["exception"]


# The start


def sentence(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OperatorError) as caught:
        read_settings()
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "SENSORIUM_WORKER",
            "2",
            r"SENSORIUM_WORKER is not a setting \(did you mean SENSORIUM_WORKERS\?\); .*",
        ),
        (
            "sensorium_wrkers",
            "2",
            r"sensorium_wrkers is not a setting \(did you mean SENSORIUM_WORKERS\?\); .*",
        ),
        ("SENSORIUM_ZZZ", "2", r"SENSORIUM_ZZZ is not a setting; docs/reference.md lists them"),
        ("SENSORIUM_WORKERS", "none", r"SENSORIUM_WORKERS: .* integer.*, not 'none'"),
        ("SENSORIUM_WORKERS", "0", r"SENSORIUM_WORKERS: .* greater than 0, not '0'"),
        ("SENSORIUM_PROVIDER", "gpu", r"SENSORIUM_PROVIDER: .*'cuda'.*, not 'gpu'"),
        ("SENSORIUM_LOG_SHARE", "2", r"SENSORIUM_LOG_SHARE: .*, not '2'"),
        ("SENSORIUM_CORS_ORIGINS", "https://a.org/", r"SENSORIUM_CORS_ORIGINS: .*'https://a.org/'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    assert re.fullmatch(words, sentence({name: value}, monkeypatch))


@pytest.mark.parametrize(
    "name",
    [
        "SENSORIUM_API_KEY",
        "SENSORIUM_LOAD_P95_MS",
        "SENSORIUM_SERVICE_HOST",
        "SENSORIUM_PORT_3000_TCP_ADDR",
        "SENSORIUM_METRICS_SERVICE_PORT_HTTP",
    ],
)
def test_what_others_call_so_is_no_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.7:3000")
    monkeypatch.setenv("SENSORIUM_CORS_ORIGINS", "https://a.org, http://b.org:8080")
    assert read_settings().cors_origins == ("https://a.org", "http://b.org:8080")


def started(
    tmp_path: Path, models: Path, *options: str, **settings: str
) -> "subprocess.Popen[str]":
    """A `bentoml serve`, and all that it says."""
    home = {"BENTOML_HOME": str(tmp_path / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    return subprocess.Popen(
        [sys.executable, "-m", "bentoml", "serve", "service.app:Sensorium", *options],
        cwd=PROJECT,
        env={**plain_environment(), **home, "SENSORIUM_MODELS": str(models), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_what_cannot_work_ends_the_start_with_one_sentence(
    tmp_path: Path, small_models: Path
) -> None:
    broken = tmp_path / "state"
    broken.mkdir()
    (broken / "models.json").write_text("{")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        here = ("--host", "127.0.0.1", "--port", port)
        starts = {
            f"cannot listen on 127.0.0.1, port {port}": started(tmp_path, small_models, *here),
            "SENSORIUM_WORKER is not a setting": started(
                tmp_path, small_models, *here, SENSORIUM_WORKER="2"
            ),
            "no such folder": started(tmp_path, tmp_path / "nowhere", *here),
            "the key file cannot be read": started(
                tmp_path, small_models, *here, SENSORIUM_KEYS=str(tmp_path / "none.txt")
            ),
            "SENSORIUM_STATE: ": started(
                tmp_path, small_models, *here, SENSORIUM_STATE=str(broken)
            ),
        }
        for words, process in starts.items():
            said, _ = process.communicate(timeout=60)
            assert process.returncode == 1
            [line] = said.splitlines()
            assert words in line


@pytest.mark.parametrize(
    ("host", "with_keys", "address", "loud"),
    [
        (None, False, "127.0.0.1", False),
        (None, True, "0.0.0.0", False),
        ("0.0.0.0", False, "0.0.0.0", True),
        ("0.0.0.0", True, "0.0.0.0", False),
        ("127.0.0.1", True, "127.0.0.1", False),
    ],
)
def test_without_keys_only_this_machine_is_served_unless_a_host_is_given(
    tmp_path: Path,
    small_models: Path,
    key_file: Path,
    host: str | None,
    with_keys: bool,
    address: str,
    loud: bool,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"SENSORIUM_KEYS": str(key_file)} if with_keys else {}
    options = ["--port", str(port), *(("--host", host) if host else ())]
    with started(tmp_path, small_models, *options, **settings) as process:
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if "Starting production" in line:
                break
        sockets = psutil.Process(process.pid).net_connections("inet")
        process.terminate()
    listening = [each.laddr for each in sockets if each.status == psutil.CONN_LISTEN]
    assert [(each.ip, each.port) for each in listening] == [(address, port)], said
    assert ("AUTHENTICATION IS OFF, and the service listens on 0.0.0.0" in "".join(said)) == loud, (
        said
    )
