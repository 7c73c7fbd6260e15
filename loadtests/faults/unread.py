"""Clients that send much and read nothing: others are served, and SIGTERM ends the service."""

import asyncio
import gzip
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing import get_context

from loadtests.faults.bench import Bench
from loadtests.faults.examples import Example, read_examples
from loadtests.faults.figures import Figure
from loadtests.faults.load import ask_for
from loadtests.faults.overload import probe
from loadtests.faults.server import Server
from loadtests.wire import post

HELD_MIB = 32  # of bodies, as the server is told
READERS, BODY_MIB = 8, 6
ITEMS = 1200  # 5.7 MB of vectors, more than a socket's buffer takes
PIPELINES, PIPELINED_BYTES = 40, 250_000
PACKED, INFLATED_MIB = 40, 24
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"

AT_ONCE = 2  # clients that behave
SEND_SECONDS = 1.0  # for which a client waits until the server takes more
ANSWER_SECONDS = 30.0
SERVED_AGAIN_SECONDS = 30.0
SLOWEST_PROBE_MS = 250
MAX_MIB = 100  # that a worker grows beyond the bodies that it may hold
END_SECONDS = 25.0


def unread(bench: Bench) -> Iterator[Figure]:
    """A request with a large answer, then, on the same connection, a request that is large."""
    many = json.dumps({"input": ["red"] * ITEMS}).encode()
    large = b'{"input": "red"}'.ljust(BODY_MIB * 2**20)
    messages = [post("/v1/text/embed", "application/json", body) for body in (many, large)]
    yield from _harm(bench, "unread", READERS, messages, HELD_MIB)


def pipelining(bench: Bench) -> Iterator[Figure]:
    """Thousands of small requests on each connection."""
    requests = LIVEZ * (PIPELINED_BYTES // len(LIVEZ))
    yield from _harm(bench, "pipelining", PIPELINES, [requests], 0)


def decompression(bench: Bench) -> Iterator[Figure]:
    """Bodies that are some fifty times larger when they are inflated, and whose end never comes."""
    plain = b"".join(os.urandom(500) + bytes(60_000) for _ in range(INFLATED_MIB * 17))
    packed = gzip.compress(plain)
    message = post("/v1/text/embed", "text/plain", packed, {"Content-Encoding": "gzip"})
    yield from _harm(bench, "decompression", PACKED, [message[:-1]], HELD_MIB)


def _harm(
    bench: Bench, name: str, number: int, messages: Sequence[bytes], held_mib: float
) -> Iterator[Figure]:
    """So many clients send these messages, read next to nothing, and stay."""
    examples = read_examples(bench.models)
    with (
        bench.server(
            name,
            SENSORIUM_MAX_HELD_BYTES=str(HELD_MIB * 2**20),
            SENSORIUM_MAX_ITEMS=str(ITEMS),
            SENSORIUM_MAX_QUEUE=str(2 * ITEMS),
            SENSORIUM_MAX_WAIT_MS="60000",
            SENSORIUM_CACHE_BYTES=str(2**20),  # the same text again and again costs nothing
        ) as server,
        ExitStack() as clients,
    ):
        asyncio.run(ask_for(SEND_SECONDS, server.port, examples, AT_ONCE))
        before = server.resident_bytes()
        server.forget_peaks()
        for _ in range(number):
            clients.enter_context(_send_unread(server.port, messages))
        yield from _beside(server, examples, bench.scaled(30, 8))
        growth = server.peak_growth_bytes(before) / 2**20
        yield Figure("growth of a worker, MiB", growth, most=held_mib + MAX_MIB)
        yield from _terminate(server)


def _send_unread(port: int, messages: Sequence[bytes]) -> socket.socket:
    """A connection that sends each message when the answer to the one before has begun."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    with suppress(OSError):  # the server takes no more, or has closed the connection
        for number, message in enumerate(messages):
            if number:
                client.settimeout(ANSWER_SECONDS)
                client.recv(1)
            client.settimeout(SEND_SECONDS)
            client.sendall(message)
    return client


def _beside(server: Server, examples: Sequence[Example], seconds: float) -> Iterator[Figure]:
    """What everybody else sees while those clients stay."""
    began = time.monotonic()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        probing = pool.submit(probe, server.port, seconds)
        while asyncio.run(ask_for(SEND_SECONDS, server.port, examples, 1)).wrong():
            if time.monotonic() - began > SERVED_AGAIN_SECONDS:
                break
        again = time.monotonic() - began
        log = asyncio.run(ask_for(seconds, server.port, examples, AT_ONCE))
        probes = probing.result()
    slowest = max(taken for _, taken in probes)
    yield Figure("others are all served after, s", again, most=SERVED_AGAIN_SECONDS)
    yield Figure("from then on answered right", len(log.right()), least=1)
    yield Figure("from then on not answered right", len(log.wrong()), most=0)
    yield Figure("health and metrics not answered 200", sum(s != 200 for s, _ in probes), most=0)
    yield Figure("slowest health or metrics, ms", slowest * 1000, most=SLOWEST_PROBE_MS)


def _terminate(server: Server) -> Iterator[Figure]:
    """SIGTERM while those clients are still connected."""
    began = time.monotonic()
    server.tree.root.terminate()
    try:
        status = server.tree.root.wait(END_SECONDS * 2)
    except subprocess.TimeoutExpired:
        status = -1
    yield Figure("ended after SIGTERM, s", time.monotonic() - began, most=END_SECONDS)
    yield Figure("exit status", status, least=0, most=0)
