"""Bombs: small requests that would grow large, or cost much, if anybody unpacked them."""

import asyncio
import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from loadtests.faults.bench import Bench
from loadtests.faults.examples import read_examples
from loadtests.faults.figures import Figure
from loadtests.faults.load import ask_for
from loadtests.faults.server import Server
from loadtests.wire import Connections
from tests.hostile import forms, pictures, sounds
from tests.hostile.case import ANY, BAD, REFUSED, Case, File, request
from tests.hostile.requests import NOT_TAKEN

MAX_SECONDS = 0.2
MAX_MIB = 100
TIMES = 3
WARM_SECONDS = 2
PICTURE, SOUND, TEXT = "/v1/image/classify", "/v1/audio/classify", "/v1/text/embed"
DEFLATE, GZIP = 15, 31  # zlib's names for the two wrappings
BLOCK_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class Blow:
    """What one bomb did, at its worst of a few times."""

    seconds: float
    extra_bytes: int
    complaint: str | None


def throw_bombs(bench: Bench) -> Iterator[Figure]:
    """Each is refused at once, and costs next to nothing."""
    with bench.server("bombs") as server:
        examples = read_examples(bench.models)
        asyncio.run(ask_for(WARM_SECONDS, server.port, examples, bench.workers * 2))
        workers = server.worker_ids()
        wrong = []
        for bomb in bombs():
            blow = _throw(server, bomb)
            yield Figure(f"{bomb.name}: ms", blow.seconds * 1000, most=MAX_SECONDS * 1000)
            yield Figure(f"{bomb.name}: MiB", blow.extra_bytes / 2**20, most=MAX_MIB)
            wrong += [f"{bomb.name}: {blow.complaint}"] if blow.complaint else []
        log = asyncio.run(ask_for(WARM_SECONDS, server.port, examples, bench.workers * 2))
        restarts = len(server.worker_ids() - workers)
    complaints = bench.into / f"bombs-{bench.workers}.txt"
    complaints.write_text("\n".join(wrong))
    yield Figure(f"bombs answered wrongly (see {complaints.name})", len(wrong), most=0)
    yield Figure("good requests not answered right afterwards", len(log.wrong()), most=0)
    yield Figure("restarts", restarts, most=0)


def bombs() -> Iterator[Case]:
    """Those that the acceptance names, and a few that are like them."""
    yield forms.raw(PICTURE, pictures.png_bomb())
    yield forms.raw(PICTURE, pictures.scans_bomb(side=4000, scans=100))
    icc = b"name\0\0" + zlib.compress(bytes(200_000_000), 9)
    profile = File("ICC profile of 200 MB, packed", pictures.png_with_chunk(b"iCCP", icc), ANY)
    yield forms.raw(PICTURE, profile)
    yield forms.raw(SOUND, sounds.silence_bomb("FLAC", "PCM_16"))
    yield forms.raw(SOUND, sounds.silence_bomb("OGG", "VORBIS"))
    yield forms.raw(
        SOUND, File("WAV that claims 4 GB", sounds.wav(bytes(99), data_bytes=-1 % 2**32), ANY)
    )
    refused = REFUSED | NOT_TAKEN
    for coding, wrapping in {"gzip": GZIP, "deflate": DEFLATE}.items():
        body = packed_zeros(2**31, wrapping)
        yield request(
            f"2 GB in {coding}", TEXT, body, refused, headers={"content-encoding": coding}
        )
    parts = forms.multipart([b"red"] * 100_000)
    yield request("100,000 parts", TEXT, parts, REFUSED, headers={"content-type": forms.FORM})
    for depth in (1000, 100_000):
        deep = b'{"input": %b%b}' % (b"[" * depth, b"]" * depth)
        yield request(f"JSON {depth} deep", TEXT, deep, BAD, headers={"content-type": forms.JSON})
    items = json.dumps({"input": ["red"] * 1_000_000}).encode()
    yield request("a million texts", TEXT, items, REFUSED, headers={"content-type": forms.JSON})


def packed_zeros(size: int, wrapping: int) -> bytes:
    """So many zeros as gzip or deflate; its checksum is wrong, which shows at its end only."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wrapping)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(BLOCK_BYTES)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size // BLOCK_BYTES) + packer.flush()


def _throw(server: Server, bomb: Case) -> Blow:
    """A few times, to whichever worker takes it."""
    blows = []
    for _ in range(TIMES):
        before = server.resident_bytes()
        server.forget_peaks()
        began = time.perf_counter()
        complaint = asyncio.run(_send(server.port, bomb))
        seconds = time.perf_counter() - began
        blows.append(Blow(seconds, server.peak_growth_bytes(before), complaint))
    return Blow(
        max(blow.seconds for blow in blows),
        max(blow.extra_bytes for blow in blows),
        next((blow.complaint for blow in blows if blow.complaint), None),
    )


async def _send(port: int, bomb: Case) -> str | None:
    async with Connections(port) as connections:
        answer = await connections.ask(bomb.message)
    return bomb.complaint(answer.status, answer.headers, answer.body)
