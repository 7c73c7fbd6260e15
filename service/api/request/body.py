"""Bodies: all that a client sends, within a time, and inflated within a size."""

import asyncio
import zlib

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.errors import (
    BadRequest,
    BodyTimeout,
    CallerGone,
    DeadlineExceeded,
    TooLarge,
    UnknownEncoding,
)
from service.settings import Settings

# Content-Encoding -> the header that zlib then expects
WINDOWS = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}

# Text shrinks to a tenth and sound to a half, so a bomb (a thousandth) is known before it fills the
# limit. A silent or a blank file is a bomb too, but a small one.
MAX_INFLATION = 100
ALWAYS_INFLATED = 2**20  # bytes; no more is inflated at once
QUICKLY_INFLATED = (
    2**16
)  # bytes; the event loop inflates them in 0.2 ms, and leaves more to threads
MAX_MEMBERS = 4096  # of one gzip body; files that are compressed in blocks have one per 64 KB


async def read_body(request: Request, settings: Settings, deadline: float) -> bytes:
    """The whole body, inflated where it comes compressed.

    Args:
        deadline: of the request, on the event loop's clock, in seconds.

    Raises:
        UnknownEncoding: it is compressed in a way that is not taken here.
        BodyTimeout: it was not there in time.
        DeadlineExceeded: it was not there before the request's deadline.
        TooLarge: it is inflated beyond the limits.
        QueueFull: all requests together hold too much.
        BadRequest: it is not compressed as it says.
        CallerGone: its sender has left.
    """
    encoding = _encoding_of(request)
    latest = asyncio.get_running_loop().time() + settings.body_seconds
    try:
        async with asyncio.timeout_at(min(latest, deadline)):
            if encoding is None:
                return await _collect(request)
            return await _inflate(request, Inflater(encoding, settings.max_body_bytes))
    except TimeoutError:
        if deadline < latest:
            raise DeadlineExceeded(
                "the body did not arrive before the deadline; raise X-Timeout-Ms or send less"
            ) from None
        raise BodyTimeout(
            f"the body did not arrive within {settings.body_seconds:g} seconds"
        ) from None
    except ClientDisconnect:
        raise CallerGone("the caller left before its body was here") from None


def _encoding_of(request: Request) -> str | None:
    """How the body is compressed.

    Raises:
        UnknownEncoding: not in a way that is taken here, or more than once.
    """
    given = [value for name, value in request.scope["headers"] if name == b"content-encoding"]
    if not given:
        return None
    encoding = b", ".join(given).decode("latin-1").strip().lower()
    if encoding == "identity":
        return None
    if encoding not in WINDOWS:
        raise UnknownEncoding(
            f"Content-Encoding {encoding[:100]} is not taken; send gzip or deflate, applied once,"
            " or the body as it is"
        )
    return encoding


async def _collect(request: Request) -> bytes:
    """As Starlette's own, without a generator: most bodies are one piece."""
    pieces: list[bytes] = []
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)


class Inflater:
    """A compressed body; several gzip members, one behind another, are one body (RFC 1952)."""

    def __init__(self, encoding: str, most: int) -> None:
        """`most` is how many bytes the whole may become."""
        self._encoding = encoding
        self._most = most
        self._window = WINDOWS[encoding]
        self._member = zlib.decompressobj(self._window)
        self._members = 1
        self._sent = self._inflated = 0  # bytes so far

    def inflate(self, data: bytes, most: int) -> tuple[bytes, bytes]:
        """At most so many bytes of what the data becomes, and the data that is left.

        Raises:
            BadRequest: it is not compressed as it says.
            TooLarge: it becomes more than it may.
        """
        try:
            if self._member.eof:
                self._begin_member()
            elif self._window == zlib.MAX_WBITS and not self._sent and not _has_zlib_header(data):
                self._member = zlib.decompressobj(-zlib.MAX_WBITS)  # some send it without a header
            piece = self._member.decompress(data, most)
        except zlib.error as error:
            raise BadRequest(f"the body is not {self._encoding}: {error}") from error
        rest = self._member.unconsumed_tail or self._member.unused_data
        self._sent += len(data) - len(rest)
        self._inflated += len(piece)
        allowed = min(self._most, max(ALWAYS_INFLATED, MAX_INFLATION * self._sent))
        if self._inflated > allowed:
            raise TooLarge(
                f"the body is inflated to more than {allowed:,} bytes:"
                f" at most {self._most:,}, and {MAX_INFLATION} times what was sent"
            )
        return piece, rest

    def finish(self) -> None:
        """Raises:
        BadRequest: the body ends too early.
        """
        if not self._member.eof:
            raise BadRequest(f"the body is not one whole {self._encoding} stream: it ends early")

    def _begin_member(self) -> None:
        if self._window == zlib.MAX_WBITS:
            raise BadRequest("the body is not one whole deflate stream: more follows it")
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise TooLarge(f"the gzip body has more than {MAX_MEMBERS:,} members; compress it anew")
        self._member = zlib.decompressobj(self._window)


def _has_zlib_header(data: bytes) -> bool:
    """Of RFC 1950, of which the first byte may come alone."""
    return data[0] & 0x8F == 8 and (len(data) < 2 or int.from_bytes(data[:2]) % 31 == 0)


async def _inflate(request: Request, inflater: Inflater) -> bytes:
    """The body as it was before it was compressed; stopped as soon as it is beyond a limit."""
    state = request.scope["state"]
    pieces: list[bytes] = []
    async for chunk in request.stream():
        most = QUICKLY_INFLATED
        while chunk:
            if most == QUICKLY_INFLATED:
                piece, chunk = inflater.inflate(chunk, most)
            else:  # one thread at a time, or those of many bodies would take the lanes' cores
                async with state["inflating"]:
                    piece, chunk = await asyncio.to_thread(inflater.inflate, chunk, most)
            state["hold"](len(piece))
            pieces.append(piece)
            most = ALWAYS_INFLATED
    inflater.finish()
    return b"".join(pieces)
