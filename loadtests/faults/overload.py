"""Overload: far more callers than can be served, who come whether or not those before were."""

import asyncio
import statistics
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from loadtests.compare.arrivals import LEAD_IN_SECONDS, Visit, arrive
from loadtests.compare.outcome import Outcome, percentile
from loadtests.compare.payloads import choose_photos, draw_pictures
from loadtests.compare.wrk import ask_again_and_again
from loadtests.faults.bench import Bench
from loadtests.faults.figures import Figure
from loadtests.faults.server import Server
from loadtests.wire import Connections, post

PATH = "/v1/image/classify?model=efficientnet-lite0"
JPEG = "image/jpeg"
DEADLINE_SECONDS = 1.0
MIN_GOODPUT = {3: 0.85, 10: 0.6}  # times the capacity that callers ask for -> of the capacity
AT_ONCE = 32
TURNS = 3  # floods
CROWD = 256  # connections that ask again at once: nearly all are refused
MAX_LATE = 0.01  # of the requests that were taken
ALONE = 40  # requests of a lone caller
PROBE_EVERY_SECONDS = 0.1
PROBED = ("/metrics", *["/livez"] * 9)  # metrics each second, many times as often as Prometheus

T = TypeVar("T")


def overload(bench: Bench) -> Iterator[Figure]:
    """What can be served is served; the others are told at once; health never hides."""
    seconds, turn = bench.scaled(30, 6) / TURNS, bench.scaled(6, 4)
    photos = _photos(bench)
    with bench.server("overload") as server:
        best = _capacity(server, photos, turn)
        yield Figure("answers a second at best", best.rate)
        refusal = _refusal(server, photos, best, bench.scaled(10, 4))
        yield Figure("CPU of a refusal, ms", refusal * 1000, most=0.5)
        for times, least in MIN_GOODPUT.items():
            # Before and after each, for the machine is not as fast in one minute as in the next.
            bests, floods = [_capacity(server, photos, turn)], []
            for _ in range(TURNS):
                floods.append(_flood(server, photos, times * bests[-1].rate, seconds))
                bests.append(_capacity(server, photos, turn))
            for figure in _judge(floods, bests, least):
                yield Figure(
                    f"{times} times: {figure.what}", figure.value, figure.least, figure.most
                )


@dataclass(frozen=True, slots=True)
class Capacity:
    """The most that the server answers, and what an answer costs it."""

    rate: float  # answers a second
    cpu_seconds: float  # for each answer


@dataclass(frozen=True, slots=True)
class Flood:
    """What became of everybody in one overload."""

    visits: Sequence[Visit]  # after the lead-in
    seconds: float
    server_cpu_seconds: float
    client_cores: float
    probes: Sequence[tuple[int, float]]  # status, seconds
    alone_before: float  # median seconds of a lone caller
    alone_after: float  # the same, from a second after the flood


def _judge(
    floods: Sequence[Flood], bests: Sequence[Capacity], least_goodput: float
) -> Iterator[Figure]:
    """All floods as one, beside what the server does at best before, between and after them."""
    visits = [visit for flood in floods for visit in flood.visits]
    probes = [probe for flood in floods for probe in flood.probes]
    seconds = sum(flood.seconds for flood in floods)
    rate = statistics.mean(best.rate for best in bests)
    answer_cpu_seconds = statistics.mean(best.cpu_seconds for best in bests)
    served = [visit.seconds for visit in visits if visit.status == 200]
    late = sum(visit.status == 504 for visit in visits)
    refused = [visit for visit in visits if visit.status not in (200, 504)]
    told = [visit for visit in refused if visit.status == 503 and visit.retry_after]
    in_time = sum(taken <= DEADLINE_SECONDS for taken in served)
    spare = sum(flood.server_cpu_seconds for flood in floods) - len(served) * answer_cpu_seconds
    yield Figure("callers a second", len(visits) / seconds)
    yield Figure("answers in time, of the best", in_time / seconds / rate, least=least_goodput)
    yield Figure(
        "p99 of the answers, ms", percentile(served, 99) * 1000, most=DEADLINE_SECONDS * 1000
    )
    yield Figure("refused other than by 503 with Retry-After", len(refused) - len(told), most=0)
    yield Figure("of these: no answer", sum(visit.status == 0 for visit in refused))
    yield Figure(
        "taken, and dropped when it was too late: 504, of those taken",
        late / (late + len(served)),
        most=MAX_LATE,
    )
    times = [visit.seconds for visit in told]
    yield Figure("median of the refusals, ms", percentile(times, 50) * 1000, most=50)
    yield Figure(
        "CPU beyond the answers' at best, ms a refusal", spare / max(1, len(refused)) * 1000
    )
    yield Figure("health and metrics not answered 200", sum(s != 200 for s, _ in probes), most=0)
    yield Figure("slowest health or metrics, ms", max(s for _, s in probes) * 1000, most=250)
    after = statistics.median(flood.alone_after / flood.alone_before for flood in floods)
    yield Figure("lone caller afterwards, times before", after, most=1.5)
    yield Figure("cores that the callers took", max(flood.client_cores for flood in floods))


def _photos(bench: Bench) -> list[Path]:
    """Ordinary ones; drawn where there are no real ones."""
    if bench.photos:
        return choose_photos(bench.photos)
    folder = bench.into / "photos"
    folder.mkdir(exist_ok=True)
    for number, content in enumerate(draw_pictures()):
        (folder / f"{number:03}.jpg").write_bytes(content)
    return sorted(folder.iterdir())


def _capacity(server: Server, photos: Sequence[Path], seconds: float) -> Capacity:
    """By wrk, which leaves the most to the server."""
    url = f"http://127.0.0.1:{server.port}{PATH}"
    ask_again_and_again(url, JPEG, photos, AT_ONCE, 2)
    server.tree.settle()
    before = server.cpu_seconds()
    outcome: Outcome = ask_again_and_again(url, JPEG, photos, AT_ONCE, seconds)
    spent = server.cpu_seconds() - before
    return Capacity(outcome.rate, spent / max(1, outcome.answers))


def _refusal(server: Server, photos: Sequence[Path], best: Capacity, seconds: float) -> float:
    """CPU seconds of a refusal, from a crowd so large that there is little else."""
    url = f"http://127.0.0.1:{server.port}{PATH}"
    before = server.cpu_seconds()
    outcome: Outcome = ask_again_and_again(url, JPEG, photos, CROWD, seconds)
    spent = server.cpu_seconds() - before
    return (spent - outcome.answers * best.cpu_seconds) / max(1, outcome.errors)


def _flood(server: Server, photos: Sequence[Path], rate: float, seconds: float) -> Flood:
    deadline = {"X-Timeout-Ms": f"{DEADLINE_SECONDS * 1000:.0f}"}
    requests = [post(PATH, JPEG, photo.read_bytes(), deadline) for photo in photos]
    whole = LEAD_IN_SECONDS + seconds
    server.tree.settle()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(time.sleep, 0).result()  # its start would take a core meanwhile
        before = _run(_alone(server.port, requests))
        probing = pool.submit(probe, server.port, whole)
        cpu, client = server.cpu_seconds(), time.process_time()
        visits = _run(arrive(server.port, requests, rate, whole))
        cpu, client = server.cpu_seconds() - cpu, time.process_time() - client
        time.sleep(1.0)  # within which all must be as before
        after = _run(_alone(server.port, requests))
        probes = probing.result()
    counted = [visit for visit in visits if visit.came >= LEAD_IN_SECONDS]
    share = seconds / whole
    return Flood(counted, seconds, cpu * share, client / whole, probes, before, after)


def probe(port: int, seconds: float) -> list[tuple[int, float]]:
    """Status and seconds of health and metrics, each asked over a connection of its own."""

    async def ask(path: str) -> tuple[int, float]:
        began = time.perf_counter()
        async with Connections(port) as connections:
            answer = await connections.ask(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return answer.status, time.perf_counter() - began

    async def ask_again() -> list[tuple[int, float]]:
        found: list[tuple[int, float]] = []
        end = time.monotonic() + seconds
        for path in cycle(PROBED):
            if time.monotonic() >= end:
                return found
            found.append(await ask(path))
            await asyncio.sleep(PROBE_EVERY_SECONDS)
        return found

    return asyncio.run(ask_again())


async def _alone(port: int, requests: Sequence[bytes]) -> float:
    """Median seconds of one request after the other."""
    times = []
    async with Connections(port) as connections:
        for request in islice(cycle(requests), ALONE):
            began = time.perf_counter()
            await connections.ask(request)
            times.append(time.perf_counter() - began)
    return percentile(times, 50)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)
