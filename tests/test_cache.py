"""Cache: the same file is computed once, where the settings say so."""

import gc
import io
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from weakref import ref

import httpx
import numpy as np
import pytest
from PIL import Image

from service.api import build_api
from service.control.repository import Repository
from service.control.routing import Policy
from service.inference.cache import OVERHEAD_BYTES, QUICKLY_HASHED, Cache
from tests.conftest import COLOURS, png, write_colours, write_warmth
from tests.test_routes import problem, serving

pytestmark = pytest.mark.anyio

CLASSIFY, EMBED = "/v1/image/classify?model=colours", "/v1/image/embed?model=colours"
RED = png((250, 0, 0))
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture
def api() -> Any:
    return build_api()


@pytest.fixture
async def client(small_models: Path, api: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(small_models, api, cache_bytes=2**20) as client:
        yield client


async def ask(client: httpx.AsyncClient, path: str, content: bytes = RED) -> dict[str, Any]:
    answer = await client.post(path, content=content)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def statistics(client: httpx.AsyncClient) -> Counter[str]:
    """Triton's figures of the model `colours`, in all tests of this process."""
    document = (await client.get("/v2/models/colours/stats")).json()
    figures = document["model_stats"][0]["inference_stats"]
    return Counter({name: figure["count"] for name, figure in figures.items()})


async def test_the_same_file_is_computed_once_whatever_is_asked_of_it(
    client: httpx.AsyncClient, counted: Counter[str]
) -> None:
    before = await statistics(client)
    first = await ask(client, CLASSIFY)
    answer = await client.post(CLASSIFY, content=RED)
    assert answer.json() == first
    assert answer.headers["server-timing"].count("dur=0.00") == 3, "it took no time"
    await ask(client, EMBED)
    assert counted == {"decode": 1, "run": 1}
    grown = await statistics(client) - before
    assert grown == {"success": 3, "cache_miss": 1, "cache_hit": 2} | dict.fromkeys(PARTS, 1)


async def test_every_other_file_is_computed(
    client: httpx.AsyncClient, counted: Counter[str]
) -> None:
    answers = [await ask(client, CLASSIFY, png((n, 0, 250))) for n in (0, 1, 0, 1)]
    assert counted["run"] == 2
    assert answers[:2] == answers[2:] != [answers[0], answers[0]]


async def test_without_the_setting_nothing_is_kept(
    small_models: Path, counted: Counter[str]
) -> None:
    async with serving(small_models) as client:
        counted.clear()
        await ask(client, CLASSIFY)
        await ask(client, CLASSIFY)
    assert counted == {"decode": 2, "run": 2}


async def test_a_large_file_is_found_as_well(
    client: httpx.AsyncClient, counted: Counter[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert len(file.getvalue()) > QUICKLY_HASHED
    first = await ask(client, CLASSIFY, file.getvalue())
    assert await ask(client, CLASSIFY, file.getvalue()) == first
    assert counted["run"] == 1


async def test_what_is_told_beside_the_answer_is_kept_as_well(client: httpx.AsyncClient) -> None:
    long = b"red " * 100
    first = (await client.post("/v1/text/embed", content=long)).json()
    assert first["results"][0]["truncated"] is True
    assert (await client.post("/v1/text/embed", content=long)).json() == first
    wish = {"model": "words", "input": "red cat sea"}
    answers = [(await client.post("/v1/embeddings", json=wish)).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0]["usage"]["prompt_tokens"] > 0


async def test_a_file_that_cannot_be_read_is_not_kept(
    client: httpx.AsyncClient, counted: Counter[str]
) -> None:
    for _ in range(2):
        problem(await client.post(CLASSIFY, content=RED[:40]), 422, "unreadable")
    assert counted["decode"] == 2


async def look(repository: Repository) -> None:
    """As a request to load the model asks for it."""
    await repository.apply({"colours": Policy(loads=1)}, repository.defaults, ["colours"])


async def test_a_model_that_is_loaded_anew_answers_for_itself(
    client: httpx.AsyncClient, api: Any, small_models: Path
) -> None:
    assert (await ask(client, CLASSIFY))["results"][0]["labels"][0]["label"] == "red"
    folder = write_colours(small_models / "new", graph=COLOURS.replace("{0.1}", "{-0.1}"))
    before = small_models / "colours/1"
    before.rename(small_models / "old")
    folder.rename(before)
    await look(api.state.sensorium.repository)
    assert (await ask(client, CLASSIFY))["results"][0]["labels"][0]["label"] != "red"


async def test_a_model_that_has_left_is_not_held(
    client: httpx.AsyncClient, api: Any, small_models: Path
) -> None:
    await ask(client, CLASSIFY)
    repository = api.state.sensorium.repository
    served = ref(repository.pick("colours"))
    assert served() is not None
    shutil.rmtree(small_models / "colours")
    await look(repository)
    gc.collect()
    assert served() is None


async def test_a_batch_is_not_kept_for_one_of_its_rows(client: httpx.AsyncClient, api: Any) -> None:
    files = [("file", (str(n), png((n, 0, 0)))) for n in range(4)]
    await client.post(CLASSIFY, files=files)
    kept = api.state.sensorium.pipeline._cache
    results = [result for result, _ in kept._entries.values()]
    assert len(results) == 4
    assert all(values.base is None for result in results for values in result.row.values())


async def test_heads_find_their_encoders_vector(small_models: Path, counted: Counter[str]) -> None:
    write_warmth(small_models)
    async with serving(small_models, cache_bytes=2**20) as client:
        counted.clear()
        for _ in range(2):
            await ask(client, "/v1/image/classify?model=warmth")
    assert counted == {"decode": 1, "run": 3}, "the encoder once, the head twice"


def test_what_was_not_used_for_long_is_forgotten_first() -> None:
    cache: Cache[str] = Cache(3 * (100 + OVERHEAD_BYTES))
    for key in "abc":
        cache.keep(key, key.upper(), 100)
    assert cache.find("a") == "A"
    cache.keep("d", "D", 100)
    assert [cache.find(key) for key in "abcd"] == ["A", None, "C", "D"]
    cache.keep("e", "E", 100 + OVERHEAD_BYTES + 100)  # in the place of two
    assert [cache.find(key) for key in "acde"] == [None, None, "D", "E"]
    assert cache._held_bytes == 3 * (100 + OVERHEAD_BYTES)
    cache.keep("e", "F", 0)
    assert cache._held_bytes == 100 + 2 * OVERHEAD_BYTES


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache: Cache[str] = Cache(2000)
    cache.keep("small", "S", 100)
    cache.keep("large", "L", 2000)
    assert [cache.find(key) for key in ("small", "large")] == ["S", None]
    cache.keep("small", "L", 2000)
    assert cache.find("small") is None
    assert cache._held_bytes == 0
