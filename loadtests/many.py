"""Many models: 1,000 heads on one encoder, and a light model next to a heavy one.

    python -m loadtests.many
    python -m loadtests.many --heads 100 --head models/my-head

Starts the service on copies of one head, prints each figure with its limit, and returns 1 if one is
beyond it. Let nothing else run meanwhile.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from loadtests.compare import serving
from loadtests.compare.contestants import CONTESTANTS
from loadtests.compare.outcome import percentile
from loadtests.compare.payloads import make_payloads
from loadtests.compare.processes import exit_with
from loadtests.compare.wrk import ask_again_and_again
from loadtests.faults.figures import Figure, Finding, show
from loadtests.faults.server import Server
from loadtests.wire import Connections, post

CACHE = Path(".cache/many")
MODELS = Path("models")
MIB = 2**20
SCRAPES = 9
TOGETHER, PAIRS = 32, 200  # heads of one request; requests of each kind
LIGHT, HEAVY = "spoken-digits", "efficientnet-lite0"
IDLE_SECONDS = 10.0
PROBES, PAUSE_SECONDS = 400, 0.02
CLIENTS, LEAD_IN_SECONDS, HEAVY_SECONDS = 32, 3.0, 45.0
TEXT = b"my card has not arrived yet"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 1 is returned when a figure is beyond its limit."""
    args = _parse(arguments)
    CACHE.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    if args.only != "heavy":
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            models = Path(folder).absolute()
            names = copy_head(args.head, models, args.heads)
            [encoder] = _read_manifest(_newest(args.head))["preprocessing"]["encoders"]
            (models / encoder["name"]).symlink_to((args.models / encoder["name"]).absolute())
            figures += _many(models, names)
    if args.only != "many":
        figures += _next_to_heavy(args.models, args.photos)
    finding = Finding(f"{args.heads} heads", 1, tuple(figures))
    print(show([finding]))
    return 0 if finding.holds else 1


def copy_head(head: Path, models: Path, count: int) -> list[str]:
    """Model folders that differ in their names; their files are links to those of the head."""
    newest = _newest(head)
    manifest = _read_manifest(newest)
    names = [f"head-{number:04}" for number in range(count)]
    for name in names:
        folder = models / name / "1"
        folder.mkdir(parents=True)
        for file in newest.iterdir():
            (folder / file.name).symlink_to(file.absolute())
        (folder / "manifest.yaml").unlink()
        copy = {**manifest, "name": name, "version": 1}
        (folder / "manifest.yaml").write_text(yaml.safe_dump(copy, sort_keys=False))
    return names


def _newest(model: Path) -> Path:
    return max(model.iterdir(), key=lambda folder: int(folder.name))


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((folder / "manifest.yaml").read_text())
    return manifest


def _many(models: Path, names: Sequence[str]) -> Iterator[Figure]:
    """What the heads cost while nobody asks them, and 32 of them in one request."""
    with _served("many", models) as (server, seconds):
        server.tree.settle()
        weights = sum((models / name / "1/model.onnx").stat().st_size for name in names) / MIB
        resident = server.memory_bytes() / MIB
        yield Figure("ready after, s", seconds, most=20)
        yield Figure("resident, MiB", resident, most=1024)
        yield Figure("resident without the heads' weights, MiB", resident - weights)
        yield Figure("threads", server.threads(), most=100)
        times, text = [], ""
        for _ in range(SCRAPES):
            began = time.perf_counter()
            text = server.get("/metrics")[1]
            times.append(time.perf_counter() - began)
        yield Figure("/metrics, ms", statistics.median(times) * 1000, most=100)
        yield Figure("/metrics, KiB", len(text) / 1024)
        yield Figure("series of idle heads", text.count(f'model="{names[0][:5]}'), most=0)
        cpu = server.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        share = (server.cpu_seconds() - cpu) / IDLE_SECONDS
        yield Figure("CPU time while idle, % of a core", share * 100)
        one, together = asyncio.run(_ask_together(server.port, names))
        yield Figure("one head, ms", one * 1000)
        yield Figure(f"{TOGETHER} heads / one head", together / one, most=1.3)
        yield Figure(f"threads after {TOGETHER} heads were asked", server.threads())


async def _ask_together(port: int, names: Sequence[str]) -> tuple[float, float]:
    """Median seconds of a request to one head, and of one to many; asked in turn."""
    first = names[:TOGETHER]
    requests = [
        post("/v1/text/classify?" + "&".join(f"model={name}" for name in some), "text/plain", TEXT)
        for some in (first[:1], first)
    ]
    times: tuple[list[float], list[float]] = ([], [])
    async with Connections(port) as connections:
        for _ in range(PAIRS):
            for request, seconds in zip(requests, times, strict=True):
                began = time.perf_counter()
                answer = await connections.ask(request)
                seconds.append(time.perf_counter() - began)
                assert answer.status == 200, answer.body
    one, together = (statistics.median(seconds[PAIRS // 10 :]) for seconds in times)
    return one, together


def _next_to_heavy(models: Path, photos: Path | None) -> Iterator[Figure]:
    """A light model's slowest answers alone, and next to a heavy model that is saturated."""
    recording = _newest(models / LIGHT) / "example.wav"
    files = make_payloads(CACHE / "payloads", ["photos"], photos, recording)["photos"]
    request = post(f"/v1/audio/classify?model={LIGHT}", "audio/wav", recording.read_bytes())
    with _served("heavy", models) as (server, _):
        url = f"http://127.0.0.1:{server.port}/v1/image/classify?model={HEAVY}"

        async def beside() -> tuple[Sequence[float], Sequence[float], float]:
            await _probe(server.port, request)
            alone = await _probe(server.port, request)
            heavy = asyncio.ensure_future(
                asyncio.to_thread(
                    ask_again_and_again, url, "image/jpeg", files, CLIENTS, HEAVY_SECONDS
                )
            )
            await asyncio.sleep(LEAD_IN_SECONDS)
            loaded = await _probe(server.port, request)
            return alone, loaded, (await heavy).rate

        alone, loaded, rate = asyncio.run(beside())
    for name, times in (("alone", alone), ("next to a heavy model", loaded)):
        for percent in (50, 99):
            value = percentile(times, percent) * 1000
            yield Figure(f"light model {name}, p{percent}, ms", value)
    yield Figure("answers of the heavy model a second", rate)
    ratio = percentile(loaded, 99) / percentile(alone, 99)
    yield Figure("p99 of the light model, next to a heavy one / alone", ratio, most=3)


async def _probe(port: int, request: bytes) -> list[float]:
    """Seconds of some requests, one after the other, with pauses."""
    times = []
    async with Connections(port) as connections:
        for _ in range(PROBES):
            began = time.perf_counter()
            answer = await connections.ask(request)
            times.append(time.perf_counter() - began)
            assert answer.status == 200, answer.body
            await asyncio.sleep(PAUSE_SECONDS)
    return times


@contextmanager
def _served(name: str, models: Path) -> Iterator[tuple[Server, float]]:
    """The service with these models, and the seconds until it was ready."""
    env = {"SENSORIUM_MODELS": str(models.absolute()), "SENSORIUM_WORKERS": "1"}
    ours = replace(CONTESTANTS["sensorium"], name=name, env=env)
    with serving.served(ours, Path(), CACHE) as started:
        server = Server(started.port, started.tree)
        while server.get("/readyz")[0] != 200:
            started.give_time("it loads its models")
        yield server, started.age()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m loadtests.many",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--heads", type=int, default=1000, help="copies of the head (default: %(default)s)")
    add("--head", type=Path, default=MODELS / "banking-intents", help="default: %(default)s")
    add("--models", type=Path, default=MODELS, help="where its encoder is (default: %(default)s)")
    add("--photos", type=Path, help="a folder of .jpg; else images are drawn")
    add("--only", choices=["many", "heavy"], help="one of the two parts")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    exit_with(main)
