"""What hangs is noticed, told of, and replaced."""

import asyncio
import ctypes
import gc
import math
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import httpx
import psutil
import pytest

import service.control.watchdog
from service.api import build_api, build_app
from service.api.context import AppContext, build_context
from service.control.routing import Defaults, Policy
from service.errors import BatchFailed
from service.model.speed import Speed
from service.settings import Settings
from tests.conftest import png, write_model

pytestmark = pytest.mark.anyio

# A bright picture makes up to 2 ** 55 turns of a loop: more than anybody waits for.
STALLING = """
<ir_version: 9, opset_import: ["" : 18]>
stalling (uint8[N,8,8,3] pixels) => (float[N,3] vector)
<int64[2] sides = {1, 2}, float limit = {200}, float two = {2}, float zero = {0}, bool yes = {1}> {
    floats = Cast<to = 1>(pixels)
    colours = ReduceMean<keepdims = 0>(floats, sides)
    brightest = ReduceMax<keepdims = 0>(colours)
    above = Sub(brightest, limit)
    exponent = Max(above, zero)
    count = Pow(two, exponent)
    trips = Cast<to = 7>(count)
    vector = Loop <body = turn (int64 trip, bool go, float[N,3] last)
        => (bool further, float[N,3] next) {
            further = Identity(go)
            next = Identity(last)
        }> (trips, yes, colours)
}
"""
# A bright picture makes it count to 25 million.
HUNGRY = """
<ir_version: 9, opset_import: ["" : 18]>
stalling (uint8[N,8,8,3] pixels) => (float[N,3] vector)
<int64[2] sides = {1, 2}, float limit = {200}, float zero = {0}, float half = {500000},
 int64 none = {0}, int64 one = {1}> {
    floats = Cast<to = 1>(pixels)
    colours = ReduceMean<keepdims = 0>(floats, sides)
    brightest = ReduceMax<keepdims = 0>(colours)
    above = Sub(brightest, limit)
    positive = Max(above, zero)
    many = Mul(positive, half)
    count = Cast<to = 7>(many)
    numbers = Range(none, count, one)
    total = ReduceSum<keepdims = 0>(numbers)
    sum = Cast<to = 1>(total)
    nothing = Mul(sum, zero)
    vector = Add(colours, nothing)
}
"""
DARK, BRIGHT = png((10, 20, 30)), png((250, 250, 250))
PATIENCE = 0.3
PIECE = 20_000  # bytes


@pytest.fixture(autouse=True)
def on_a_slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it is unwell, the process of these tests does not end."""
    monkeypatch.setattr(service.control.watchdog, "HOPELESS", 10_000.0)


@asynccontextmanager
async def watched(
    models: Path, graph: str = STALLING, patience: float = PATIENCE, example: bytes = DARK
) -> AsyncIterator[tuple[AppContext, httpx.AsyncClient]]:
    write_model(
        models,
        graph,
        name="stalling",
        preprocessing={"modality": "image", "input": "pixels", "size": [8, 8]},
        tasks={"embed": {"output": "vector", "width": 3}},
        batching={"max_batch": 4},
        example={"file": "example.png", "tolerance": {"fp32": 1e-4}},
        files={"example.png": example},
    )
    settings = Settings(models=models, stuck_seconds=patience, drain_seconds=0.2)
    api = build_api()
    api.state.sensorium = state = build_context(settings, models.parent)
    await state.repository.open()
    transport = httpx.ASGITransport(build_app(api, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://sensorium") as client:
        yield state, client
    await state.repository.close()
    state.pipeline.close()


@asynccontextmanager
async def watching(state: AppContext) -> AsyncIterator[None]:
    """The watch looks, again and again."""
    looking = asyncio.create_task(state.watch.run())
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


def resident() -> int:
    """Bytes that this process holds."""
    held: int = psutil.Process().memory_info().rss
    return held


async def wait_until_fewer(most: int) -> None:
    """Until this process holds so many bytes at most."""
    async with asyncio.timeout(10):
        while resident() > most:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# Of brightness 216 it makes 2 ** 16 turns: tens of milliseconds.
SLOWLY = png((10, 20, 216))


async def look_until_well(state: AppContext) -> None:
    while state.watch.ailment:
        await asyncio.sleep(0.01)
        await state.watch.look()


async def test_a_run_that_does_not_end_is_given_up_and_the_service_goes_on(tmp_path: Path) -> None:
    async with watched(tmp_path) as (state, client):
        stalled = asyncio.create_task(client.post("/v1/image/embed", content=BRIGHT))
        await asyncio.sleep(2 * PATIENCE)
        assert (await client.get("/livez")).status_code == 200
        await state.watch.look()
        response = await client.get("/livez")
        assert response.status_code == 503
        assert response.json()["reason"] == "stalling: 1 of its runs are stuck"
        answer = await stalled
        assert answer.status_code == 500
        assert answer.json()["code"] == "inference_failed"
        assert "gave no answer within 0.3 s" in answer.json()["detail"]
        assert (await client.post("/v1/image/embed", content=DARK)).status_code == 200
        await look_until_well(state)
        assert (await client.get("/livez")).json() == {"status": "alive"}


async def test_a_slow_model_is_not_taken_for_a_stuck_one(tmp_path: Path) -> None:
    async with watched(tmp_path, patience=0.001, example=SLOWLY) as (state, client):
        [served] = state.repository.served()
        assert served.batcher.patience(1, 0.001) > 0.001
        answering = asyncio.create_task(client.post("/v1/image/embed", content=SLOWLY))
        while not answering.done():
            await asyncio.sleep(0.005)
            await state.watch._check_lanes()
            assert (await client.get("/livez")).json() == {"status": "alive"}
        assert (await answering).status_code == 200
        await state.watch._run_example(served)
        assert state.watch._last_trial(served)[1] is None


async def test_a_slow_model_spends_no_time_on_the_watch(
    tmp_path: Path, counted: Counter[str]
) -> None:
    async with watched(tmp_path) as (state, _):
        [served] = state.repository.served()
        await state.watch._run_example(served)
        assert counted["run"] > 0
        slow = replace(served, model=replace(served.model, speed=Speed(item=60.0)))
        state.repository._entries = {
            key: replace(entry, served=slow) for key, entry in state.repository._entries.items()
        }
        counted.clear()
        await state.watch._run_example(slow)
        assert counted["run"] == 1
        state.watch._examples[slow] = (time.monotonic() - 1000, None)
        assert not state.watch._is_example_due(slow)
        state.watch._release_memory()
        assert counted == {"run": 1}
        assert slow.model.session._used, "it would have run to give memory back"


async def test_a_run_that_does_not_end_is_stopped_when_its_model_is_unloaded(
    tmp_path: Path,
) -> None:
    async with watched(tmp_path) as (state, client), asyncio.timeout(30):
        [served] = state.repository.served()
        lanes = served.batcher._lanes
        headers = {"X-Timeout-Ms": "100"}
        asking = (client.post("/v1/image/embed", content=BRIGHT, headers=headers) for _ in "123")
        for late in await asyncio.gather(*asking):
            assert late.json()["code"] == "deadline_exceeded"
        del served
        nothing = Policy(versions=frozenset())
        await state.repository.apply({"stalling": nothing}, Defaults(), ["stalling"])
        while any(lane.thread.is_alive() for lane in lanes):
            await asyncio.sleep(0.01)
            await state.watch._check_lanes()
            gc.collect()  # as the watch does: errors hold the model


async def test_the_watch_goes_on_where_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(service.control.watchdog, "PAUSE", 0.01)
    async with watched(tmp_path) as (state, client), asyncio.timeout(30):
        assert (await client.post("/v1/image/embed", content=DARK)).status_code == 200
        with monkeypatch.context() as patch:
            patch.setattr(Thread, "start", fail)
            async with watching(state):
                stalled = await client.post("/v1/image/embed", content=BRIGHT)
        assert stalled.json()["code"] == "inference_failed"
        async with watching(state):
            assert (await client.post("/v1/image/embed", content=DARK)).status_code == 200


async def test_a_process_that_stood_still_has_no_lane_that_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by SIGSTOP, or a machine that sleeps: an hour goes by between two looks."""
    monkeypatch.setattr(service.control.watchdog, "PAUSE", 0.01)
    async with watched(tmp_path) as (state, client):
        [served] = state.repository.served()
        asked = asyncio.create_task(client.post("/v1/image/embed", content=BRIGHT))
        while not any(lane.jobs for lane in served.batcher._lanes):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        for lane in served.batcher._lanes:
            lane.began -= 3600
        state.watch._checked -= 3600
        await state.watch._check_lanes()
        assert (await client.get("/livez")).json() == {"status": "alive"}
        await asyncio.sleep(2 * PATIENCE)
        await state.watch._check_lanes()
        assert (await asked).json()["code"] == "inference_failed"


async def test_a_healthy_service_is_well(tmp_path: Path) -> None:
    async with watched(tmp_path) as (state, client):
        await state.watch.look()
        assert (await client.get("/livez")).json() == {"status": "alive"}


async def test_the_watch_wakes_no_model_that_nobody_asked(
    tmp_path: Path, counted: Counter[str]
) -> None:
    async with watched(tmp_path) as (state, client):
        [served] = state.repository.served()
        counted.clear()
        await state.watch.look()
        assert not counted
        assert not served.batcher.threads_at_work()
        await client.post("/v1/image/embed", content=DARK)
        await state.watch.look()
        assert counted["run"] == 2  # the request, and the example


async def test_a_model_that_fails_on_its_own_example_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the device is lost")

    async with watched(tmp_path) as (state, client):
        [served] = state.repository.served()
        monkeypatch.setattr(served.batcher, "_compute", fail)
        await client.post("/v1/image/embed", content=DARK)
        await state.watch.look()
        reason = (await client.get("/livez")).json()["reason"]
    assert reason.startswith("stalling: its own example fails")
    assert "the device is lost" in reason


async def test_decoders_that_are_stuck_are_told_of(tmp_path: Path) -> None:
    async with watched(tmp_path) as (state, client):
        go = Event()
        pool: ThreadPoolExecutor = state.pipeline._decoders
        held = [pool.submit(go.wait, 10) for _ in range(state.settings.decoders)]
        await state.watch.look()
        assert "no decoder was free" in (await client.get("/livez")).json()["reason"]
        go.set()
        assert all(each.result() for each in held)
        await look_until_well(state)


async def test_decoders_that_have_much_to_do_are_not_stuck(tmp_path: Path) -> None:
    async with watched(tmp_path) as (state, client):
        files = state.settings.decoders * 12

        def decode(_: bytes) -> None:
            time.sleep(PATIENCE / 4)  # all of them take three times the patience

        works = (state.pipeline.decode(decode, b"", math.inf) for _ in range(files))
        decoding = asyncio.gather(*works)
        await asyncio.sleep(0)
        await state.watch.look()
        assert not decoding.done()
        assert (await client.get("/livez")).status_code == 200
        await decoding


async def test_lanes_are_looked_at_while_a_decoder_lets_the_watch_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait_for_ever(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(service.control.watchdog, "PAUSE", 0.01)
    async with watched(tmp_path) as (state, client):
        monkeypatch.setattr(state.pipeline, "decode", wait_for_ever)
        async with watching(state), asyncio.timeout(10):
            stalled = await client.post("/v1/image/embed", content=BRIGHT)
        assert stalled.json()["code"] == "inference_failed"


async def test_what_was_freed_is_given_back_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("another C library than glibc: it keeps nothing")
    monkeypatch.setattr(service.control.watchdog, "TRIM_SECONDS", 0.05)
    async with watched(tmp_path) as (state, _):
        held = [b"x" * PIECE for _ in range(4000)]
        last = held[-1]  # what lies behind the others keeps them
        before = resident()
        held.clear()
        async with watching(state):
            await wait_until_fewer(before - 3000 * PIECE)
        assert len(last) == PIECE


async def test_what_holds_each_other_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an error and its traceback do; for an idle worker nobody looks for garbage."""
    monkeypatch.setattr(service.control.watchdog, "TRIM_SECONDS", 0.05)
    async with watched(tmp_path) as (state, _):
        gc.disable()
        try:
            error = BatchFailed()
            error.__cause__ = error
            held = weakref.ref(error)
            del error
            assert held() is not None
            async with watching(state), asyncio.timeout(10):
                while held():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


async def test_what_a_run_needed_much_of_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.control.watchdog, "TRIM_SECONDS", 0.05)
    megabyte = 2**20
    async with watched(tmp_path, HUNGRY) as (state, client):
        before = resident()
        assert (await client.post("/v1/image/embed", content=BRIGHT)).status_code == 200
        assert resident() > before + 150 * megabyte
        async with watching(state):
            await wait_until_fewer(before + 50 * megabyte)
