"""The HTTP interface on small models: bodies in, answers and problems out."""

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.routing import APIRoute
from PIL import Image
from starlette.routing import Route
from starlette.types import Message

from service.api import build_api, build_app
from service.api.context import build_context
from service.api.outcomes import all_or_none
from service.errors import BadRequest
from service.metrics import samples
from service.settings import Settings
from tests.conftest import png, tone, write_colours, write_loudness

pytestmark = pytest.mark.anyio

RED, GREEN, BLUE = png((250, 10, 10)), png((10, 250, 10)), png((10, 10, 250))


def test_no_route_is_left_to_be_made_at_a_request() -> None:
    assert all(isinstance(route, Route | APIRoute) for route in build_api().routes)


@asynccontextmanager
async def serving(
    models: Path, api: Any = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    # As `served` does: work may wait for a minute here, on whatever machine.
    config = Settings(models=models, **{"max_wait_ms": 60_000, **settings})
    api = api or build_api()
    api.state.sensorium = state = build_context(config, models.parent)
    await state.repository.open()
    transport = httpx.ASGITransport(build_app(api, config), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://sensorium") as client:
        yield client
    await state.repository.close()
    state.pipeline.close()


@pytest.fixture
async def client(small_models: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(small_models) as client:
        yield client


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer, its one shape checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["code"] == document["error"]["code"] == code
    assert document["type"] == f"urn:sensorium:problem:{code}"
    assert document["detail"] == document["error"]["message"] != ""
    assert document["error"]["type"] in ("invalid_request_error", "server_error")
    assert document["request_id"] == response.headers["x-request-id"]
    return document


def top(response: httpx.Response) -> list[str]:
    """The likeliest label of each item."""
    assert response.status_code == 200, response.text
    return [result["labels"][0]["label"] for result in response.json()["results"]]


async def test_the_shape_of_an_answer(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/image/classify?top_k=2", content=GREEN)
    answer = response.json()
    scores = [label.pop("score") for label in answer["results"][0]["labels"]]
    assert answer == {
        "model": "colours",
        "version": "1",
        "results": [{"index": 0, "status": "ok", "labels": [{"label": "green"}, {"label": "red"}]}],
    }
    assert scores == pytest.approx([1 / (1 + 2 * np.exp(-24)), np.exp(-24)], rel=1e-3)
    vector = (await client.post("/v1/image/embed", content=GREEN)).json()["results"]
    assert vector == [{"index": 0, "status": "ok", "vector": [10, 250, 10]}]


async def test_a_raw_body_is_one_item_whatever_it_is_called(client: httpx.AsyncClient) -> None:
    for kind in ("image/png", "application/octet-stream", "application/x-www-form-urlencoded"):
        headers = {"content-type": kind}
        response = await client.post("/v1/image/classify", content=BLUE, headers=headers)
        assert top(response) == ["blue"]
    assert top(await client.post("/v1/image/classify", content=BLUE)) == ["blue"]


async def test_put_is_post_for_those_who_upload_with_curl(client: httpx.AsyncClient) -> None:
    assert top(await client.put("/v1/image/classify", content=RED)) == ["red"]
    assert top(await client.put("/v1/audio/classify", content=tone(0.9))) == ["loud"]


async def test_multipart_with_many_files_under_any_names(client: httpx.AsyncClient) -> None:
    files = [("file", ("a.png", RED)), ("file", ("b.png", BLUE)), ("other", ("c", GREEN))]
    response = await client.post("/v1/image/classify", files=files)
    assert top(response) == ["red", "blue", "green"]
    assert [result["index"] for result in response.json()["results"]] == [0, 1, 2]


async def test_multipart_text_may_be_a_file_or_a_field(client: httpx.AsyncClient) -> None:
    files = {"a": ("a.txt", b"red"), "b": (None, b"cat cat")}
    results = (await client.post("/v1/text/embed", files=files)).json()["results"]
    assert [np.argmax(result["vector"]) for result in results] == [2, 5]


async def test_multipart_field_that_is_no_file_says_how_to_send_one(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/v1/image/classify", files={"image": (None, b"cat.jpg")})
    assert "-F 'image=@FILE'" in problem(response, 400, "bad_request")["detail"]


async def test_json_strings_and_base64(client: httpx.AsyncClient) -> None:
    one = await client.post("/v1/text/embed", json={"input": "sea"})
    assert one.json()["results"][0]["vector"] == [0, 0, 0, 0, 0, 0, 0, 1]
    two = await client.post("/v1/text/embed", json={"input": ["sea", {"base64": "cmVk"}]})
    assert [np.argmax(result["vector"]) for result in two.json()["results"]] == [7, 2]
    pictures = [{"base64": base64.b64encode(picture).decode()} for picture in (RED, GREEN)]
    response = await client.post("/v1/image/classify", json={"input": pictures})
    assert top(response) == ["red", "green"]


async def test_a_bad_item_among_good_ones_is_its_own_error(client: httpx.AsyncClient) -> None:
    files = [("f", ("a", RED)), ("f", ("b", b"no picture")), ("f", ("c", BLUE))]
    response = await client.post("/v1/image/classify", files=files)
    results = response.json()["results"]
    assert response.status_code == 200
    assert [result["status"] for result in results] == ["ok", "error", "ok"]
    assert results[1]["index"] == 1
    assert results[1]["error"]["code"] == "unreadable"
    assert results[1]["error"]["status"] == 422
    assert "labels" not in results[1]


async def test_bad_items_in_json_are_their_own_errors(client: httpx.AsyncClient) -> None:
    items = ["red", {"base64": "%%"}, 7, {"base64": "cmVk", "x": 1}, "\ud800", "", None]
    body = json.dumps({"input": items})
    headers = {"content-type": "application/json"}
    results = (await client.post("/v1/text/embed", content=body, headers=headers)).json()["results"]
    codes = [result.get("error", {}).get("code", "ok") for result in results]
    bad, unreadable = "bad_request", "unreadable"
    assert codes == ["ok", unreadable, bad, bad, unreadable, unreadable, bad]


async def test_a_single_bad_item_is_the_request_s_problem(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/image/classify", content=b"no picture")
    assert "JPEG" in problem(response, 422, "unreadable")["detail"]
    response = await client.post("/v1/audio/classify", content=RED)
    assert "WAV" in problem(response, 422, "unreadable")["detail"]
    problem(await client.post("/v1/text/embed", content=b"\xff"), 422, "unreadable")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "image/png"),
        (b"{", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"[]", "application/json"),
        (b"{}", "application/json"),
        (b'{"input": []}', "application/json"),
        (b'{"input": "a", "top_k": 3}', "application/json"),
        (b"\xff", "application/json"),
        (b"", "multipart/form-data; boundary=x"),
        (b"--y\r\n\r\n", "multipart/form-data; boundary=x"),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
        (b"anything", "multipart/form-data"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/image/classify", "/v1/text/embed"])
async def test_a_body_of_no_known_form_is_a_bad_request(
    client: httpx.AsyncClient, path: str, content: bytes, kind: str
) -> None:
    response = await client.post(path, content=content, headers={"content-type": kind})
    problem(response, 400, "bad_request")


@pytest.mark.parametrize(
    ("query", "status", "code", "words"),
    [
        ("top_k=0", 400, "bad_request", "top_k"),
        ("top_k=many", 400, "bad_request", "top_k"),
        ("topk=1", 400, "bad_request", "topk"),
        ("version=1.0", 400, "bad_request", "version"),
        ("model=colors", 404, "not_found", "colours, loudness, words"),
        ("model=colours&version=2", 404, "not_found", "it has: 1"),
        ("model=words", 400, "unsupported", "words cannot classify image; it can embed text"),
    ],
)
async def test_a_query_that_cannot_be_met_says_what_to_change(
    client: httpx.AsyncClient, query: str, status: int, code: str, words: str
) -> None:
    response = await client.post(f"/v1/image/classify?{query}", content=RED)
    assert words in problem(response, status, code)["detail"]


async def test_unknown_paths_and_methods_are_problems_too(client: httpx.AsyncClient) -> None:
    problem(await client.get("/v1/video/classify"), 404, "not_found")
    response = await client.get("/v1/image/classify")
    problem(response, 405, "method_not_allowed")
    assert "POST" in response.headers["allow"]


async def test_more_labels_than_there_are_gives_all(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/image/classify?top_k=99", content=RED)
    labels = response.json()["results"][0]["labels"]
    assert len(labels) == 3
    assert sum(label["score"] for label in labels) == pytest.approx(1)


async def test_text_is_classified_by_likeness_to_labels(client: httpx.AsyncClient) -> None:
    query = "labels=red%20green&labels=cat%20dog&top_k=2"
    response = await client.post(f"/v1/text/classify?{query}", content=b"dog dog cat")
    [result] = response.json()["results"]
    assert [label["label"] for label in result["labels"]] == ["cat dog", "red green"]
    likeness = 3 / np.sqrt(5) / np.sqrt(2)
    expected = 1 / (1 + np.exp(-20 * likeness))
    assert result["labels"][0]["score"] == pytest.approx(expected, rel=1e-5)


async def test_text_classification_names_both_ways(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/text/classify", content=b"red")
    detail = problem(response, 400, "bad_request")["detail"]
    assert "model=" in detail
    assert "labels=" in detail
    assert "words" in detail


async def test_a_label_without_words_is_the_request_s_problem(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/text/classify?labels=red&labels=", content=b"red")
    problem(response, 422, "unreadable")


async def test_similarity_of_every_two(client: httpx.AsyncClient) -> None:
    texts = ["red", "red red", "red blue", "sea"]
    answer = (await client.post("/v1/text/similarity", json={"input": texts})).json()
    half = np.sqrt(0.5)
    expected = [[1, 1, half, 0], [1, 1, half, 0], [half, half, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(answer["similarities"], expected, atol=1e-6)
    assert answer["model"] == "words"


async def test_similarity_of_one_against_many(client: httpx.AsyncClient) -> None:
    body = {"input": "red", "against": ["sea", "red"]}
    answer = (await client.post("/v1/text/similarity", json=body)).json()
    np.testing.assert_allclose(answer["similarities"], [[0, 1]], atol=1e-6)


@pytest.mark.parametrize(
    "body", [{"input": "red"}, {"input": []}, {}, {"input": [1, 2]}, {"input": "a", "with": "b"}]
)
async def test_similarity_wants_two_texts(client: httpx.AsyncClient, body: Any) -> None:
    problem(await client.post("/v1/text/similarity", json=body), 400, "bad_request")


async def test_a_truncated_text_says_so(client: httpx.AsyncClient) -> None:
    [result] = (await client.post("/v1/text/embed", content=b"red " * 17)).json()["results"]
    assert result["truncated"] is True
    [result] = (await client.post("/v1/text/embed", content=b"red " * 16)).json()["results"]
    assert "truncated" not in result


async def test_the_picture_that_the_model_sees(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/image/preview", content=GREEN)
    assert response.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(response.content))
    assert picture.size == (8, 8)
    assert picture.getpixel((4, 4)) == (10, 250, 10)


async def test_the_tokens_that_the_model_reads(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/v1/text/preview", content=b"red boat")).json()
    assert answer["truncated"] is False
    assert answer["tokens"] == [
        {"id": 2, "token": "red", "start": 0, "end": 3},
        {"id": 1, "token": "[UNK]", "start": 4, "end": 8},
    ]


async def test_the_sound_that_the_model_hears(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/audio/preview", content=tone(0.9))
    quiet = await client.post("/v1/audio/preview", content=tone(0.1))
    for answer in (response, quiet):
        assert answer.headers["content-type"] == "image/png"
        assert min(Image.open(io.BytesIO(answer.content)).size) >= 300
    assert response.content != quiet.content


async def test_previews_are_drawn_one_at_a_time(small_models: Path) -> None:
    api = build_api()
    async with serving(small_models, api=api) as client:
        state = api.state.sensorium
        headers = {"X-Timeout-Ms": "50"}
        async with state.previews:
            late = await client.post("/v1/image/preview", content=GREEN, headers=headers)
            problem(late, 504, "deadline_exceeded")
            answer = await client.post("/v1/image/classify", content=GREEN)
            assert answer.status_code == 200
        assert (await client.post("/v1/image/preview", content=GREEN)).status_code == 200


async def test_a_preview_takes_one_item(client: httpx.AsyncClient) -> None:
    files = [("f", ("a", RED)), ("f", ("b", BLUE))]
    problem(await client.post("/v1/image/preview", files=files), 400, "bad_request")
    problem(await client.post("/v1/image/preview", content=b"x"), 422, "unreadable")


async def test_a_request_keeps_its_id_or_gets_one(client: httpx.AsyncClient) -> None:
    headers = {"x-request-id": "abc-1"}
    good = await client.post("/v1/image/classify", content=RED, headers=headers)
    assert good.headers["x-request-id"] == "abc-1"
    bad = await client.post("/v1/image/classify", content=b"x", headers=headers)
    assert problem(bad, 422, "unreadable")["request_id"] == "abc-1"
    for unusable in ("", "x" * 129, "a b"):
        headers = {"x-request-id": unusable}
        response = await client.get("/livez", headers=headers)
        assert len(response.headers["x-request-id"]) == 32


async def test_the_answer_says_where_its_time_went(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/image/classify", content=RED)
    stages = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert list(stages) == ["decode", "queue", "inference"]
    assert all(0 <= float(milliseconds) < 10_000 for milliseconds in stages.values())


async def test_a_deadline_in_milliseconds(client: httpx.AsyncClient) -> None:
    for unusable in ("0", "-1", "soon", "1.5", "\u0663", "100001", "9" * 5000):
        headers = httpx.Headers({"x-timeout-ms": unusable}, encoding="utf-8")
        response = await client.post("/v1/image/classify", content=RED, headers=headers)
        problem(response, 400, "bad_request")
    enough = {"x-timeout-ms": "60000"}
    assert top(await client.post("/v1/image/classify", content=RED, headers=enough)) == ["red"]


async def test_a_deadline_that_has_passed_is_answered_as_such(small_models: Path) -> None:
    large = png((250, 10, 10), (3000, 3000))  # takes longer than a millisecond to decode
    async with serving(small_models) as client:
        headers = {"x-timeout-ms": "1"}
        response = await client.post("/v1/image/classify", content=large, headers=headers)
    problem(response, 504, "deadline_exceeded")


async def test_a_full_queue_is_503_and_says_when_to_return(small_models: Path) -> None:
    async with serving(small_models, max_queue=1, lanes=1) as client:
        several = [client.post("/v1/text/embed", content=b"red") for _ in range(64)]
        full = [r for r in await asyncio.gather(*several) if r.status_code != 200]
        assert full
        problem(full[0], 503, "queue_full")
        assert int(full[0].headers["retry-after"]) >= 1


async def test_a_request_does_not_fill_the_queue_by_itself(small_models: Path) -> None:
    async with serving(small_models, max_queue=3, max_items=5000, lanes=1) as client:
        many = await client.post("/v1/text/embed", json={"input": ["red"] * 64})
        assert [result["status"] for result in many.json()["results"]] == ["ok"] * 64
        compared = await client.post("/v1/text/similarity", json={"input": ["red", "sea"] * 32})
        assert len(compared.json()["similarities"]) == 64
        labels = {"labels": ["red", "sea", "cat", "dog", "blue"] * 3}
        found = await client.post("/v1/text/classify", params=labels, content=b"sea")
        assert top(found) == ["sea"]


async def test_a_body_beyond_the_limit_is_refused(small_models: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'--xx\r\ncontent-disposition: form-data; name="a"; filename="a"\r\n\r\n'
        for _ in range(50):
            yield b"x" * 100

    async with serving(small_models, max_body_bytes=4096) as client:
        for kind in ("image/png", "multipart/form-data; boundary=xx", "application/json"):
            headers = {"content-type": kind}
            declared = await client.post("/v1/image/classify", content=b"x" * 5000, headers=headers)
            assert "4,096 bytes" in problem(declared, 413, "too_large")["detail"]
            chunked = await client.post("/v1/text/embed", content=chunks(), headers=headers)
            assert "4,096 bytes" in problem(chunked, 413, "too_large")["detail"]
        assert top(await client.post("/v1/image/classify", content=RED)) == ["red"]


async def test_a_body_that_declares_too_much_is_not_read(small_models: Path) -> None:
    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    async with serving(small_models, max_body_bytes=4096) as client:
        headers = {"content-length": "4097"}
        response = await client.post("/v1/image/classify", content=unread(), headers=headers)
        problem(response, 413, "too_large")


async def test_more_items_than_allowed_are_refused(small_models: Path) -> None:
    async with serving(small_models, max_items=3) as client:
        problem(await client.post("/v1/text/embed", json={"input": ["red"] * 4}), 413, "too_large")
        files = [("f", ("a", RED))] * 4
        response = await client.post("/v1/image/classify", files=files)
        problem(response, 413, "too_large")
        assert top(await client.post("/v1/image/classify", files=files[:3])) == ["red"] * 3


async def test_limits_of_an_item(small_models: Path) -> None:
    settings = {"max_pixels": 300, "max_audio_seconds": 1.5, "max_text_bytes": 11}
    async with serving(small_models, **settings) as client:
        for path, item in (
            ("/v1/image/classify", png((0, 0, 0), (301, 1))),
            ("/v1/audio/classify", tone(0.5, seconds=2)),
            ("/v1/text/embed", b"red red blue"),
        ):
            problem(await client.post(path, content=item), 413, "too_large")


async def test_the_models_that_there_are(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["colours", "loudness", "words"]
    colours = listed["data"][0]
    assert colours["object"] == "model"
    assert colours["owned_by"] == "sensorium"
    assert colours["created"] > 1_700_000_000
    assert colours["state"] == "ready"
    assert colours["versions"] == ["1"]
    assert colours["manifest"]["tasks"]["embed"]["width"] == 3
    one = (await client.get("/v1/models/colours")).json()
    assert one["labels"] == ["red", "green", "blue"]
    problem(await client.get("/v1/models/colors"), 404, "not_found")
    problem(await client.get("/v1/models/colours?version=7"), 404, "not_found")


async def test_the_highest_version_serves_by_default(small_models: Path) -> None:
    write_colours(small_models, version=2)
    write_colours(small_models, version=10)
    async with serving(small_models) as client:
        for query, version in [
            ("", "10"),
            ("?model=colours", "10"),
            ("?model=colours&version=2", "2"),
        ]:
            response = await client.post(f"/v1/image/classify{query}", content=RED)
            assert response.json()["version"] == version


async def test_of_several_models_one_must_be_named(small_models: Path) -> None:
    write_colours(small_models, "paints")
    async with serving(small_models) as client:
        response = await client.post("/v1/image/classify", content=RED)
        assert "colours, paints" in problem(response, 400, "bad_request")["detail"]
        named = await client.post("/v1/image/classify?model=paints", content=RED)
        assert named.json()["model"] == "paints"


async def test_readiness_names_every_model_and_its_state(small_models: Path) -> None:
    (write_loudness(small_models, "broken") / "model.onnx").write_bytes(b"")
    async with serving(small_models) as client:
        response = await client.get("/readyz")
        assert response.status_code == 200
        states = {model["name"]: model["state"] for model in response.json()["models"]}
        assert states == {
            "broken": "failed",
            "colours": "ready",
            "loudness": "ready",
            "words": "ready",
        }
        response = await client.post("/v1/audio/classify?model=broken", content=tone(0.5))
        assert "sha256" in problem(response, 503, "not_ready")["detail"]
        [broken] = [
            m for m in (await client.get("/v1/models")).json()["data"] if m["id"] == "broken"
        ]
        assert broken["state"] == "failed"
        assert "sha256" in broken["reason"]


async def test_nothing_is_ready_before_it_is_loaded(small_models: Path) -> None:
    config = Settings(models=small_models)
    api = build_api()
    api.state.sensorium = build_context(config, small_models.parent)
    transport = httpx.ASGITransport(build_app(api, config))
    async with httpx.AsyncClient(transport=transport, base_url="http://sensorium") as client:
        response = await client.get("/readyz")
        assert response.status_code == 503
        assert {model["state"] for model in response.json()["models"]} == {"loading"}
        assert (await client.get("/livez")).status_code == 200
        problem(await client.post("/v1/image/classify", content=RED), 503, "not_ready")
        response = await client.post("/v1/image/classify?model=colours", content=RED)
        problem(response, 503, "not_ready")


@pytest.mark.parametrize(
    ("required", "missing"),
    [("", []), ("words, colours", []), ("colours,nowhere", ["nowhere"])],
)
async def test_without_a_required_model_it_is_not_ready_and_yet_serves(
    small_models: Path, monkeypatch: pytest.MonkeyPatch, required: str, missing: list[str]
) -> None:
    monkeypatch.setenv("SENSORIUM_REQUIRED_MODELS", required)
    async with serving(small_models) as client:
        response = await client.get("/readyz")
        assert response.status_code == (503 if missing else 200)
        assert response.json()["missing"] == missing
        assert (await client.get("/v2/health/ready")).status_code == response.status_code
        assert top(await client.post("/v1/image/classify", content=RED)) == ["red"]


async def test_a_provider_that_is_missing_is_said_and_nothing_falls_back(
    small_models: Path,
) -> None:
    async with serving(small_models, provider="cuda") as client:
        response = await client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["provider"] == "cuda"
        for model in response.json()["models"]:
            assert "CUDAExecutionProvider is not in this onnxruntime" in model["reason"]


def value(series: str, text: str) -> float:
    found = [line for line in text.splitlines() if line.startswith(series + " ")]
    return float(found[0].split()[-1]) if found else 0.0


async def test_metrics_count_what_was_done(client: httpx.AsyncClient) -> None:
    ok = 'sensorium_items_total{model="colours",outcome="ok",version="1"}'
    bad = 'sensorium_items_total{model="colours",outcome="unreadable",version="1"}'
    rejected = 'sensorium_rejections_total{code="unreadable"}'
    decoded = 'sensorium_stage_seconds_count{model="colours",stage="decode",version="1"}'
    before = (await client.get("/metrics")).text
    await client.post("/v1/image/classify", files=[("f", ("a", RED))] * 3)
    await client.post("/v1/image/classify", content=b"x")
    after = (await client.get("/metrics")).text
    grown = [
        value(series, after) - value(series, before) for series in (ok, bad, rejected, decoded)
    ]
    assert grown == [3, 1, 1, 3]


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("POST", "/v1/image/classify", "/v1/image/classify", 200),
        ("POST", "/v1/image/classify?model=words", "/v1/image/classify", 400),
        ("POST", "/v1/image/classify?model=nobody", "/v1/image/classify", 404),
        ("GET", "/v1/image/classify", "/v1/image/classify", 405),
        ("GET", "/v1/models/colours", "/v1/models/{name}", 200),
        ("GET", "/v1/models/nobody", "/v1/models/{name}", 404),
        ("GET", "/livez", "/livez", 200),
        ("HEAD", "/livez", "/livez", 200),
        ("GET", "/livez/", "/livez", 200),
        ("POST", "/v1/image/classify/", "/v1/image/classify", 200),
        ("GET", "/v2/models/words/versions/1", "/v2/models/{name}/versions/{version}", 200),
        ("GET", "/any/path/a/client/thinks/of", "other", 404),
        ("GET", "/v1/image/classify/x", "other", 404),
    ],
)
async def test_requests_are_counted_by_route_method_and_status(
    client: httpx.AsyncClient, method: str, path: str, route: str, status: int
) -> None:
    series = f'sensorium_requests_total{{method="{method}",route="{route}",status="{status}"}}'
    timed = f'sensorium_request_seconds_count{{route="{route}"}}'
    before = (await client.get("/metrics")).text
    await client.request(method, path, content=RED)
    after = (await client.get("/metrics")).text
    assert [value(each, after) - value(each, before) for each in (series, timed)] == [1, 1]


async def test_a_method_that_nobody_knows_makes_no_series(client: httpx.AsyncClient) -> None:
    await client.request("BREW", "/livez")
    text = (await client.get("/metrics")).text
    assert value('sensorium_requests_total{method="other",route="/livez",status="405"}', text)
    assert "BREW" not in text


async def test_statistics_are_collected_beside_the_event_loop(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def collect() -> Iterator[Any]:
        threads.append(threading.get_ident())
        return samples()

    monkeypatch.setattr("service.metrics.samples", collect)
    for path in ("/v2/models/stats", "/v2/models/colours/stats"):
        assert (await client.get(path)).status_code == 200
    assert len(threads) == 2
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    ("path", "body", "items"),
    [
        ("/v1/text/similarity", {"input": ["red", "sea"], "against": "cat"}, 3),
        ("/v1/text/classify?labels=red&labels=sea", {"input": ["red"] * 3}, 5),
    ],
)
async def test_texts_of_the_request_itself_are_counted(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], items: int
) -> None:
    async def counted() -> float:
        series = 'sensorium_items_total{model="words",outcome="ok",version="1"} '
        lines = (await client.get("/metrics")).text.splitlines()
        return float(next((line for line in lines if line.startswith(series)), "0").split()[-1])

    before = await counted()
    assert (await client.post(path, json=body)).status_code == 200
    assert await counted() - before == items


async def test_an_error_of_one_item_keeps_its_param_and_ends_the_others(small_models: Path) -> None:
    state = build_context(Settings(models=small_models), small_models.parent)
    await state.repository.open()
    words = state.repository.pick("words")
    ended = []

    async def predict(item: int) -> int:
        try:
            if item == 1:
                raise BadRequest("wrong", "input")
            await asyncio.Event().wait()
        finally:
            ended.append(item)
        return item

    with pytest.raises(BadRequest, match=r"^label 1: wrong$") as raised:
        await all_or_none(words, predict, range(5), window=3, noun="label")
    assert raised.value.param == "input"
    assert sorted(ended) == [0, 1, 2]
    await state.repository.close()
    state.pipeline.close()


async def test_a_label_that_is_no_text_is_named(client: httpx.AsyncClient) -> None:
    path = "/v1/text/classify?labels=sea&labels=%20"
    response = await client.post(path, content=b"sea")
    assert problem(response, 422, "unreadable")["detail"].startswith("label 1: ")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/v1/image/classify?topk=1", "parameter topk is unknown; did you mean top_k?"),
        ("/v1/image/classify?Model=colours", "did you mean model?"),
        ("/v1/image/classify?k=1", "known: model, version, top_k"),
        ("/v1/text/classify?label=red", "did you mean labels?"),
        ("/v1/image/embed?top_k=1", "parameter top_k is unknown; known: model, version"),
        ("/v1/image/preview?modle=colours", "did you mean model?"),
        ("/v1/text/similarity?mod=words", "did you mean model?"),
        ("/v1/embeddings?model=words", "parameter model is unknown; known: none"),
        ("/v1/text/classify?labels=%FF", "the query is not UTF-8"),
    ],
)
async def test_a_parameter_that_is_unknown_is_told_the_nearest(
    client: httpx.AsyncClient, path: str, sentence: str
) -> None:
    response = await client.post(path, content=b"red")
    assert sentence in problem(response, 400, "bad_request")["detail"]


@pytest.mark.parametrize(
    ("path", "document", "sentence"),
    [
        (
            "/v1/text/similarity",
            {"input": ["a", "b"], "model": "words"},
            "belongs in the query, not in the body: ?model=",
        ),
        ("/v1/text/similarity", {"inputs": ["a", "b"]}, "did you mean input?"),
        ("/v1/embeddings", {"input": "a", "modle": "words"}, "did you mean model?"),
        (
            "/v1/embeddings",
            {"input": "a", "model": "words", "top_k": 1},
            "top_k is unknown; known: model",
        ),
        ("/v1/embeddings", {"model": "words", "input": None}, "Field required"),
    ],
)
async def test_a_name_in_json_that_is_unknown_is_told_the_nearest(
    client: httpx.AsyncClient, path: str, document: dict[str, Any], sentence: str
) -> None:
    response = await client.post(path, json=document)
    assert sentence in problem(response, 400, "bad_request")["detail"]


async def test_labels_in_raw_utf_8_are_read_as_such(client: httpx.AsyncClient) -> None:
    app = client._transport.app  # type: ignore[attr-defined]
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"sea"}

    async def send(message: Message) -> None:
        sent.append(message)

    path = "/v1/text/classify"
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode()}
    query = "labels=größe&labels=sea".encode()
    await app({**scope, "query_string": query, "headers": []}, receive, send)
    found = json.loads(sent[1]["body"])["results"][0]["labels"]
    assert [label["label"] for label in found] == ["sea", "größe"]


@pytest.mark.parametrize(
    "document",
    [
        {"input": ["red", "sea"], "against": None},
        {"input": ["red", "sea"], "anything": None},
    ],
)
async def test_null_is_absent(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    response = await client.post("/v1/text/similarity", json=document)
    assert response.json()["similarities"] == [[1, 0], [0, 1]]


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "multipart/mixed; boundary=x"])
@pytest.mark.parametrize("path", ["/v1/text/similarity", "/v1/embeddings"])
async def test_a_document_is_no_form(client: httpx.AsyncClient, path: str, kind: str) -> None:
    response = await client.post(path, content=b"{}", headers={"content-type": kind})
    assert "send JSON" in problem(response, 415, "unknown_media_type")["detail"]


async def test_an_unexpected_failure_is_a_500_without_its_secrets(small_models: Path) -> None:
    async with serving(small_models) as client:
        app = client._transport.app  # type: ignore[attr-defined]
        app._app._api.state.sensorium = None
        response = await client.post("/v1/image/classify", content=RED)
        document = problem(response, 500, "internal")
        assert "NoneType" not in document["detail"]


async def test_the_contract_describes_every_route_with_an_example(
    client: httpx.AsyncClient,
) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    operations = [
        operation["operationId"] for path in paths.values() for operation in path.values()
    ]
    assert len(operations) == len(set(operations))
    for path, methods in paths.items():
        if path.startswith("/v1/") and "post" in methods:
            content = methods["post"]["requestBody"]["content"]
            assert ("application/json" in content) == ("multimodal" not in path)
            assert "problem+json" in str(methods["post"]["responses"]["422"])
