"""Heads: classifiers on encoders' vectors, served beside them."""

import math
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.control.repository import Repository
from service.errors import BadModel, EncoderMissing
from service.metrics import BATCH_ITEMS, samples
from service.model.model import load
from service.settings import Settings
from tests.conftest import png, tone, write_mood, write_twice, write_warmth
from tests.test_manifest import setting
from tests.test_routes import problem, serving, top

pytestmark = pytest.mark.anyio

RED, BLUE = png((250, 10, 10)), png((10, 10, 250))


@pytest.fixture
def models(small_models: Path) -> Path:
    write_warmth(small_models)
    write_mood(small_models)
    return small_models


def scores(result: dict[str, Any]) -> list[float]:
    """A result's scores in the order of the head's inputs, as an echo has them: in 256ths."""
    by_label = {label["label"]: label["score"] for label in result["labels"]}
    return [256 * by_label[f"input {number}"] for number in range(len(by_label))]


async def test_a_head_classifies_what_its_encoder_sees(models: Path) -> None:
    async with serving(models) as client:
        files = [("f", ("a", RED)), ("f", ("b", BLUE))]
        response = await client.post("/v1/image/classify?model=warmth", files=files)
    assert top(response) == ["warm", "cold"]
    assert response.json()["model"] == "warmth"


async def test_several_models_answer_on_one_pass_of_the_encoder(models: Path) -> None:
    passes = BATCH_ITEMS.labels("colours", "1")
    async with serving(models) as client:
        before = passes._sum.get()
        query = "model=warmth&model=colours&model=warmth&top_k=1"
        response = await client.post(f"/v1/image/classify?{query}", content=BLUE)
        assert passes._sum.get() == before + 1
    answers = response.json()["answers"]
    assert [answer["model"] for answer in answers] == ["warmth", "colours", "warmth"]
    found = [answer["results"][0]["labels"][0]["label"] for answer in answers]
    assert found == ["cold", "blue", "cold"]


async def test_a_bad_item_is_an_error_in_every_model_s_answer(models: Path) -> None:
    async with serving(models) as client:
        files = [("f", ("a", RED)), ("f", ("b", b"no picture"))]
        query = "model=warmth&model=colours"
        response = await client.post(f"/v1/image/classify?{query}", files=files)
    for answer in response.json()["answers"]:
        assert [result["status"] for result in answer["results"]] == ["ok", "error"]


async def test_a_head_beside_it_takes_no_request_of_a_model(models: Path) -> None:
    async with serving(models) as client:
        response = await client.post("/v1/image/classify", content=RED)
        assert response.json()["model"] == "colours"
        preview = await client.post("/v1/image/preview", content=RED)
        assert preview.status_code == 200, "a head has nothing to preview"
        embedded = await client.post("/v1/image/embed", content=RED)
        assert embedded.json()["model"] == "colours"


async def test_the_parts_of_one_item_are_classified_together(models: Path) -> None:
    async with serving(models) as client:
        parts = {"image": ("a.png", BLUE), "text": (None, b"sea")}
        response = await client.post("/v1/multimodal/classify?top_k=13", files=parts)
    [result] = response.json()["results"]
    sea = [0, 0, 0, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(scores(result), [10, 10, 250, 1, *sea, 1])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"image": ("a.png", BLUE)}, [10, 10, 250, 1, *[0] * 8, 0]),
        ({"text": ("a.txt", b"sea")}, [0, 0, 0, 0, *[0] * 7, 1, 1]),
    ],
)
async def test_a_part_may_be_missing(models: Path, parts: Any, expected: list[float]) -> None:
    async with serving(models) as client:
        response = await client.post("/v1/multimodal/classify?top_k=13", files=parts)
    [result] = response.json()["results"]
    np.testing.assert_allclose(scores(result), expected)


async def test_a_file_is_read_by_every_encoder_of_its_kind(small_models: Path) -> None:
    write_twice(small_models)
    async with serving(small_models) as client:
        response = await client.post("/v1/image/classify?model=twice&top_k=8", content=RED)
        both = await client.post("/v1/image/classify?model=twice&model=faint", content=RED)
    [result] = response.json()["results"]
    np.testing.assert_allclose(scores(result), [250, 10, 10, 1, 25, 1, 1, 1], rtol=1e-6)
    assert both.json()["answers"][1]["results"][0]["labels"][0]["label"] == "red"


def test_an_example_is_read_by_every_encoder_of_its_kind(small_models: Path) -> None:
    folder = write_twice(small_models)
    model = load(folder, Settings(), lambda e: load(small_models / e.name / "1", Settings()))
    np.testing.assert_allclose(model.sample(RED).data, [250, 10, 10, 1, 25, 1, 1, 1], rtol=1e-6)


def test_an_encoder_stands_in_a_head_once(small_models: Path) -> None:
    def repeat(manifest: dict[str, Any]) -> None:
        manifest["preprocessing"]["encoders"] *= 2

    with pytest.raises(BadModel, match="one stands there twice"):
        load(write_warmth(small_models, change=repeat), Settings())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"content": b"red"}, 415, "unknown_media_type"),
        ({"files": {"smell": ("a", RED)}}, 400, "bad_request"),
        ({"files": [("image", ("a", RED)), ("image", ("b", BLUE))]}, 400, "bad_request"),
        ({"files": {"image": (None, b"not a file")}}, 400, "bad_request"),
        ({"files": {"audio": ("a.wav", tone(0.5))}}, 400, "bad_request"),
        ({"json": {"input": "red"}}, 415, "unknown_media_type"),
    ],
)
async def test_parts_that_cannot_be_used_are_refused(
    models: Path, body: Any, status: int, code: str
) -> None:
    async with serving(models) as client:
        response = await client.post("/v1/multimodal/classify", **body)
    problem(response, status, code)


async def test_a_bad_part_is_the_item_s_problem(models: Path) -> None:
    async with serving(models) as client:
        parts = {"image": ("a.png", b"no picture"), "text": ("a.txt", b"sea")}
        problem(await client.post("/v1/multimodal/classify", files=parts), 422, "unreadable")


@pytest.mark.parametrize(
    "change",
    [
        setting("preprocessing.encoders.0.sha256", "1" * 64),
        setting("preprocessing.encoders.0.name", "paints"),
    ],
)
async def test_a_head_without_its_encoder_is_refused(small_models: Path, change: Any) -> None:
    write_warmth(small_models, change=change)
    repository = Repository(Settings(models=small_models))
    await repository.open()
    [entry] = [entry for entry in repository.entries() if entry.name == "warmth"]
    await repository.close()
    assert entry.state == "failed"
    assert "preprocessing.encoders" in str(entry.reason)


async def test_many_idle_heads_have_no_threads_and_no_series(small_models: Path) -> None:
    names = {f"idle-{number}" for number in range(8)}
    for name in names:
        write_warmth(small_models, name)
    async with serving(small_models) as client:
        assert not [thread.name for thread in threading.enumerate() if "idle-" in thread.name]
        assert not {sample.labels.get("model") for sample in samples()} & names
        response = await client.post("/v1/image/classify?model=idle-3", content=RED)
        assert top(response) == ["warm"]
        assert {sample.labels.get("model") for sample in samples()} & names == {"idle-3"}
        assert not [thread.name for thread in threading.enumerate() if "idle-" in thread.name]


@pytest.mark.parametrize("seconds", [0.0, math.inf])
async def test_heads_answer_with_and_without_a_queue(
    models: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.inference.servable.INSTANT_SECONDS", seconds)
    write_warmth(models, "warmth-too")
    async with serving(models) as client:
        query = "model=warmth&model=warmth-too&model=colours&top_k=1"
        response = await client.post(f"/v1/image/classify?{query}", content=BLUE)
        lanes = [each.name for each in threading.enumerate() if "lane of warmth" in each.name]
    answers = response.json()["answers"]
    found = [answer["results"][0]["labels"][0]["label"] for answer in answers]
    assert found == ["cold", "cold", "blue"]
    assert bool(lanes) == (seconds == 0)


def test_a_head_needs_no_second_session(models: Path) -> None:
    settings = Settings(exclusive_threads=2, threads=1)
    encoder = load(models / "colours/1", settings)
    head = load(models / "warmth/1", settings, lambda _: encoder)
    assert encoder.session._wide is not encoder.session._session
    assert head.session._wide is head.session._session


def test_a_head_is_not_loaded_alone(models: Path) -> None:
    with pytest.raises(EncoderMissing, match="colours"):
        load(models / "warmth/1", Settings())


async def test_a_client_of_a_single_model_sees_no_list(models: Path) -> None:
    async with serving(models) as client:
        response: httpx.Response = await client.post(
            "/v1/image/classify?model=colours", content=RED
        )
    assert set(response.json()) == {"model", "version", "results"}
