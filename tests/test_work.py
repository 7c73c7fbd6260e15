"""How much work a request makes, counted and not timed."""

import asyncio
import gc
import io
import math
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from loadtests.compare.payloads import mixed_lengths
from service.api import build_api
from service.inference.admission import enter
from service.inference.batch import BatchLimits
from service.inference.batching import Batcher
from service.metrics import ModelSeries
from service.model.preprocessing.image import ImagePreprocessing, ImagePreprocessor
from service.model.types import Item, Result, Sample
from service.settings import Settings
from tests.conftest import png
from tests.test_routes import serving

pytestmark = pytest.mark.anyio

# Python functions that begin on the event loop for one picture, from ASGI's call to its last byte.
MAX_CALLS = 273  # 263 when it was written; 247 before bodies, names and requests were counted
MAX_REFUSED_CALLS = 74  # 71; 65


@pytest.fixture
async def client(small_models: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(small_models) as client:
        yield client


async def test_each_picture_is_decoded_once_and_a_lone_one_runs_once(
    client: httpx.AsyncClient, counted: Counter[str]
) -> None:
    await client.post("/v1/image/classify", content=png((250, 0, 0)))
    assert counted == {"decode": 1, "run": 1}
    counted.clear()
    files = [("file", (str(n), png((n, 0, 0)))) for n in range(5)]
    await client.post("/v1/image/classify", files=files)
    assert counted["decode"] == 5
    assert counted["run"] <= 5


async def test_idle_lanes_share_the_items_of_a_request(
    small_models: Path, counted: Counter[str]
) -> None:
    api = build_api()
    async with serving(small_models, api, lanes=2) as client:
        batcher = api.state.sensorium.repository.pick("colours").batcher
        counted.clear()
        files = [("file", (str(n), png((n, 0, 0)))) for n in range(4)]
        with batcher._changed:  # until all wait, no lane takes any
            asking = asyncio.create_task(client.post("/v1/image/classify", files=files))
            await until_waiting(batcher, len(files))
        await asking
    assert counted["run"] > 1


async def until_waiting(batcher: Batcher, items: int) -> None:
    while len(batcher._waiting) < items:  # noqa: ASYNC110  each turn brings some
        await asyncio.sleep(0)


async def test_a_refused_request_is_not_decoded(
    client: httpx.AsyncClient, counted: Counter[str]
) -> None:
    await client.post("/v1/image/classify?model=nobody", content=png((250, 0, 0)))
    assert counted == {}


async def test_padding_on_mixed_lengths_stays_below_a_twentieth() -> None:
    """128 texts of 4 to 256 tokens that wait together, as they do at the highest load."""
    batches: list[list[int]] = []

    def compute(items: Sequence[Item], _: bool) -> list[Result]:
        batches.append([item.cost for item in items])
        return [Result({}) for _ in items]

    limits = BatchLimits(items=32, padding=8)
    async with Batcher(compute, limits, 1, ModelSeries("counted", 1)) as batcher:
        texts = [Sample(np.zeros(0), length) for length in mixed_lengths()]
        with batcher._changed:  # until all wait, the lane takes none
            callers = [asyncio.create_task(batcher.submit(text)) for text in texts]
            await until_waiting(batcher, len(texts))
        await asyncio.gather(*callers)
    needed = sum(sum(costs) for costs in batches)
    computed = sum(len(costs) * max(costs) for costs in batches)
    assert needed == sum(mixed_lengths())
    assert 1 - needed / computed < 0.05
    assert len(batches) < len(texts) / 2, "like lengths share a run"


async def test_a_photograph_is_read_by_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece more is another wait for the interpreter's lock."""
    pieces: list[int] = []
    read = JpegImageFile.load_read

    def counting(file: JpegImageFile, size: int) -> bytes:
        pieces.append(size)
        return read(file, size)

    monkeypatch.setattr(JpegImageFile, "load_read", counting)
    body = io.BytesIO()
    grain = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(grain).save(body, "JPEG")
    spec = ImagePreprocessing(modality="image", input="pixels", size=(224, 224))
    ImagePreprocessor(spec, Settings().input_limits).decode(body.getvalue())
    assert len(body.getvalue()) > 2**16
    assert len(pieces) == 1


async def test_a_request_calls_no_more_functions_than_it_did(client: httpx.AsyncClient) -> None:
    assert await count_calls(client) <= MAX_CALLS


async def test_nor_does_a_refused_one(small_models: Path) -> None:
    api = build_api()
    async with serving(small_models, api, max_wait_ms=1) as client:
        admission = api.state.sensorium.repository.pick("colours").admission
        for _ in range(3):  # batches, of which it learns its pace
            await client.post("/v1/image/classify", content=png((250, 0, 0)))
        with enter([admission], 10**6, math.inf):
            refused = await client.post("/v1/image/classify", content=png((250, 0, 0)))
            assert refused.status_code == 503
            assert await count_calls(client) <= MAX_REFUSED_CALLS


async def count_calls(client: httpx.AsyncClient) -> int:
    """Python functions that begin on the event loop for one picture."""
    app = client._transport.app  # type: ignore[attr-defined]
    body = png((250, 0, 0))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/image/classify",
        "query_string": b"model=colours",
        "headers": [(b"content-length", str(len(body)).encode())],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(_: dict[str, Any]) -> None: ...

    async def ask() -> None:
        await app({**scope, "state": {}}, receive, send)

    for _ in range(3):  # caches fill, histograms get their labels
        await ask()
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event == "call"

    gc.disable()  # what it frees of other tests' calls functions, too
    sys.setprofile(count)
    try:
        await ask()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls
