"""Bodies: read within a time limit, and inflated within a size limit."""

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

# Content-Encoding -> zlib's wbits for it
WINDOWS = {
    "gzip": 16 + zlib.MAX_WBITS,
    "x-gzip": 16 + zlib.MAX_WBITS,
    "deflate": zlib.MAX_WBITS,
}

# Text shrinks to a tenth and audio to a half; a decompression bomb shrinks to a thousandth. Silent
# or blank files shrink as much, but stay below ALWAYS_INFLATED.
MAX_INFLATION = 100
ALWAYS_INFLATED = 2**20  # bytes; also the most that one call inflates
QUICKLY_INFLATED = 2**16  # bytes that the event loop inflates, in 0.2 ms; a thread does the rest
MAX_MEMBERS = 4096  # of one gzip body; files compressed in blocks have one per 64 KB


async def read_body(request: Request, settings: Settings, deadline: float) -> bytes:
    """The whole body, inflated if it is compressed.

    Args:
        deadline: the deadline of the request on the event loop's clock, in seconds.

    Raises:
        UnknownEncoding: its compression is not supported.
        BodyTimeout: it did not arrive in time.
        DeadlineExceeded: it did not arrive before the request's deadline.
        TooLarge: the inflated body exceeds a limit.
        QueueFull: all requests together hold too many bytes.
        BadRequest: it is not in the declared encoding.
        CallerGone: the client disconnected.
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
        raise CallerGone("the client disconnected before its body was complete") from None


def _encoding_of(request: Request) -> str | None:
    """The content encoding; None for a plain body.

    Raises:
        UnknownEncoding: it is not supported, or applied more than once.
    """
    given = [value for name, value in request.scope["headers"] if name == b"content-encoding"]
    if not given:
        return None
    encoding = b", ".join(given).decode("latin-1").strip().lower()
    if encoding == "identity":
        return None
    if encoding not in WINDOWS:
        raise UnknownEncoding(
            f"Content-Encoding {encoding[:100]} is not supported; send gzip or deflate, applied"
            " once, or a plain body"
        )
    return encoding


async def _collect(request: Request) -> bytes:
    """The plain body. Most bodies are one piece, so Starlette's generator is not worth its time."""
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
    """Inflates one compressed body. Several gzip members in sequence are one body (RFC 1952)."""

    def __init__(self, encoding: str, most: int) -> None:
        """Args:
        most: the largest size of the inflated body, in bytes.
        """
        self._encoding = encoding
        self._most = most
        self._window = WINDOWS[encoding]
        self._member = zlib.decompressobj(self._window)
        self._members = 1
        self._sent = self._inflated = 0  # bytes so far

    def inflate(self, data: bytes, most: int) -> tuple[bytes, bytes]:
        """At most `most` inflated bytes, and the rest of the data.

        Raises:
            BadRequest: the data is not in the declared encoding.
            TooLarge: the inflated body exceeds a limit.
        """
        try:
            if self._member.eof:
                self._begin_member()
            elif self._window == zlib.MAX_WBITS and not self._sent and not _has_zlib_header(data):
                # Some clients send deflate without its zlib header.
                self._member = zlib.decompressobj(-zlib.MAX_WBITS)
            piece = self._member.decompress(data, most)
        except zlib.error as error:
            raise BadRequest(f"the body is not {self._encoding}: {error}") from error
        rest = self._member.unconsumed_tail or self._member.unused_data
        self._sent += len(data) - len(rest)
        self._inflated += len(piece)
        allowed = min(self._most, max(ALWAYS_INFLATED, MAX_INFLATION * self._sent))
        if self._inflated > allowed:
            raise TooLarge(
                f"the inflated body exceeds {allowed:,} bytes; the limits are {self._most:,} bytes"
                f" and {MAX_INFLATION} times the compressed size"
            )
        return piece, rest

    def finish(self) -> None:
        """Raises:
        BadRequest: the body ends too early.
        """
        if not self._member.eof:
            raise BadRequest(f"the {self._encoding} body is cut off or followed by other bytes")

    def _begin_member(self) -> None:
        if self._window == zlib.MAX_WBITS:
            raise BadRequest("the deflate body has trailing bytes; send one deflate stream")
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise TooLarge(
                f"the gzip body has more than {MAX_MEMBERS:,} members; compress it in one piece"
            )
        self._member = zlib.decompressobj(self._window)


def _has_zlib_header(data: bytes) -> bool:
    """Whether the data begins with the header of RFC 1950; it can be its first byte only."""
    return data[0] & 0x8F == 8 and (len(data) < 2 or int.from_bytes(data[:2]) % 31 == 0)


async def _inflate(request: Request, inflater: Inflater) -> bytes:
    state = request.scope["state"]
    pieces: list[bytes] = []
    async for chunk in request.stream():
        most = QUICKLY_INFLATED
        while chunk:
            if most == QUICKLY_INFLATED:
                piece, chunk = inflater.inflate(chunk, most)
            else:  # one thread at a time, to leave the cores to the lanes
                async with state["inflating"]:
                    piece, chunk = await asyncio.to_thread(inflater.inflate, chunk, most)
            state["hold"](len(piece))
            pieces.append(piece)
            most = ALWAYS_INFLATED
    inflater.finish()
    return b"".join(pieces)
