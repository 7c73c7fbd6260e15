"""A request that names no model gets the default, and a model that is added changes nothing."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api import build_api, build_app
from service.api.context import AppContext, build_context
from service.control.repository import Repository
from service.control.routing import read_defaults
from service.errors import OperatorError
from service.settings import Settings, read_settings
from tests.conftest import png, write_colours, write_warmth, write_words
from tests.servers import served
from tests.test_management import change, wait_for, workers

RED = png((250, 10, 10))


@asynccontextmanager
async def serving(
    models: Path, **settings: Any
) -> AsyncIterator[tuple[AppContext, httpx.AsyncClient]]:
    config = Settings(models=models, **settings)
    api = build_api()
    api.state.sensorium = state = build_context(config, models.parent)
    await state.workers.open()
    transport = httpx.ASGITransport(build_app(api, config))
    async with httpx.AsyncClient(transport=transport, base_url="http://sensorium") as client:
        yield state, client
    state.workers.close()
    await state.repository.close()
    state.pipeline.close()


async def model_of(client: httpx.AsyncClient, path: str = "/v1/image/classify") -> str:
    answer = await client.post(path, content=RED)
    return str(answer.json()["model"] if answer.status_code == 200 else answer.json()["detail"])


@pytest.mark.anyio
async def test_a_model_that_is_added_does_not_take_the_requests(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_colours(models)
    async with serving(models) as (_, client):
        write_warmth(models)
        write_colours(models, "aaa")
        for name in ("warmth", "aaa"):
            assert (await client.post(f"/v2/repository/models/{name}/load")).status_code == 200
        assert await model_of(client) == "colours"
        assert await model_of(client, "/v1/image/embed") == "colours"
        assert (await client.post("/v1/image/preview", content=RED)).status_code == 200
        cards = (await client.get("/v1/models")).json()["data"]
        given = {card["id"]: card["default_for"] for card in cards}
        assert given == {
            "aaa": [],
            "colours": ["image/classify", "image/embed", "image/preview"],
            "warmth": [],
        }


@pytest.mark.anyio
async def test_a_head_that_is_there_from_the_start_does_not_take_the_requests(
    tmp_path: Path,
) -> None:
    """As after `training fit` and a new start, where no state is kept."""
    models = tmp_path / "models"
    write_colours(models)
    write_warmth(models, "aaa")
    async with serving(models) as (_, client):
        assert await model_of(client) == "colours"
        assert (await client.post("/v2/repository/models/aaa/unload")).status_code == 200
        assert await model_of(client) == "colours"


@pytest.mark.anyio
async def test_of_several_from_the_start_one_is_named_or_set(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_colours(models)
    write_colours(models, "paints")
    write_words(models)
    async with serving(models) as (_, client):
        said = await model_of(client)
        assert "colours, paints" in said
        assert "SENSORIUM_DEFAULT_MODELS=image/classify=NAME" in said
        path = "/v2/repository/defaults"
        answer = await client.put(path, json={"defaults": {"image/classify": "paints"}})
        assert answer.json()["defaults"] == {"image/classify": "paints"}
        assert answer.json()["effective"]["text/embed"] == "words"
        assert await model_of(client) == "paints"
        assert "several models can embed" in await model_of(client, "/v1/image/embed")
        assert (await client.get(path)).json() == answer.json()
        await client.post("/v2/repository/models/paints/unload")
        assert "paints version 1 is not ready" in await model_of(client)
        assert (await client.put(path, json={"defaults": {}})).status_code == 200
        assert await model_of(client) == "colours"  # the only one that serves


@pytest.mark.parametrize(
    ("defaults", "status", "said"),
    [
        ({"image/classify": "nothing"}, 404, "no model nothing"),
        ({"image/classify": "words"}, 400, "does not support image/classify"),
        ({"image/sing": "colours"}, 400, "image/sing is unknown; known: "),
        ({"image/classify": "../etc"}, 400, "pattern"),
        ({"image/classify": 7}, 400, "string"),
        (["colours"], 400, "dictionary"),
        ("colours", 400, "dictionary"),
    ],
)
@pytest.mark.anyio
async def test_a_default_that_cannot_be_is_refused(
    tmp_path: Path, defaults: Any, status: int, said: str
) -> None:
    models = tmp_path / "models"
    write_colours(models)
    write_words(models)
    async with serving(models) as (_, client):
        answer = await client.put("/v2/repository/defaults", json={"defaults": defaults})
        assert answer.status_code == status
        assert said in answer.json()["error"]
        assert await model_of(client) == "colours"


@pytest.mark.anyio
async def test_a_setting_gives_the_default_and_a_call_goes_before_it(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_colours(models)
    write_colours(models, "paints")
    async with serving(models, default_models={"image/classify": "paints"}) as (_, client):
        assert await model_of(client) == "paints"
        body = {"defaults": {"image/classify": "colours"}}
        assert (await client.put("/v2/repository/defaults", json=body)).status_code == 200
        assert await model_of(client) == "colours"


@pytest.mark.parametrize(
    "value", ["paints", "image/classify", "image/classify=", "image=paints", "sound=a"]
)
def test_a_setting_that_cannot_be_ends_the_start(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SENSORIUM_DEFAULT_MODELS", "image/classify=a, text/embed=b")
    assert read_settings().default_models == {"image/classify": "a", "text/embed": "b"}
    monkeypatch.setenv("SENSORIUM_DEFAULT_MODELS", value)
    with pytest.raises(OperatorError, match="SENSORIUM_DEFAULT_MODELS"):
        read_settings()


@pytest.mark.anyio
async def test_who_stood_alone_is_forgotten_with_its_folder(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_colours(models)
    repository = Repository(Settings(models=models))
    await repository.open()
    write_colours(models, "paints")
    shutil.move(models / "colours", tmp_path / "aside")
    seen = await repository.poll({})
    while {entry.name for entry in repository.entries()} != {"paints"} or not repository.served():
        seen = await repository.poll(seen)
    shutil.move(tmp_path / "aside", models / "colours")
    while len(repository.served()) < 2:
        seen = await repository.poll(seen)
    assert repository.default("image", "classify") == "paints"
    await repository.close()


@pytest.mark.parametrize("count", [1, 2], ids=["one worker", "two workers"])
def test_defaults_outlive_the_server(tmp_path: Path, count: int) -> None:
    models, state = tmp_path / "models", tmp_path / "state"
    write_colours(models)
    env = {"SENSORIUM_STATE": str(state)}

    def answering(url: str, path: str) -> set[str]:
        answers = [httpx.post(f"{url}{path}", content=RED, trust_env=False) for _ in range(8)]
        return {answer.raise_for_status().json()["model"] for answer in answers}

    with served(models, workers=count, env=env) as url:
        wait_for(lambda: len(workers(state)) == count)
        write_colours(models, "paints")
        assert change(url, "paints/load").status_code == 200
        assert answering(url, "/v1/image/classify") == {"colours"}
        body = {"defaults": {"image/embed": "paints"}}
        set_ = httpx.put(f"{url}/v2/repository/defaults", json=body, trust_env=False, timeout=60)
        assert set_.status_code == 200
        assert answering(url, "/v1/image/embed") == {"paints"}
        wait_for(lambda: read_defaults(state).first.get("image/classify") == "colours")
    with served(models, workers=count, env=env) as url:
        assert answering(url, "/v1/image/classify") == {"colours"}
        assert answering(url, "/v1/image/embed") == {"paints"}
