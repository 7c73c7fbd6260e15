"""Bodies: all that a client sends, within a time, and inflated within a size."""

import asyncio
import zlib

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.errors import BadRequest, BodyTimeout, CallerGone, TooLarge, UnknownEncoding
from service.settings import Settings

# Content-Encoding -> the header that zlib then expects
WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}

# Text shrinks to a tenth and sound to a half, so a bomb (a thousandth) is known before it fills the
# limit. A silent or a blank file is a bomb too, but a small one.
MOST_INFLATION = 100
ALWAYS_INFLATED = 2**20  # bytes; no more is inflated at once


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body, inflated where it comes compressed.

    Raises:
        UnknownEncoding: it is compressed in a way that is not taken here.
        BodyTimeout: it was not there in time.
        TooLarge: it is inflated beyond the limits.
        BadRequest: it is not compressed as it says.
        CallerGone: its sender has left.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity" and encoding not in WINDOWS:
        raise UnknownEncoding(
            f"Content-Encoding {encoding} is not taken;"
            f" send {' or '.join(WINDOWS)}, or the body as it is"
        )
    try:
        async with asyncio.timeout(settings.body_seconds):
            if encoding == "identity":
                return await _collect(request)
            return await _inflate(request, encoding, settings.max_body_bytes)
    except TimeoutError:
        raise BodyTimeout(
            f"the body did not arrive within {settings.body_seconds:g} seconds"
        ) from None
    except ClientDisconnect:
        raise CallerGone("the caller left before its body was here") from None


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


async def _inflate(request: Request, encoding: str, most: int) -> bytes:
    """The body as it was before it was compressed; stopped as soon as it is beyond a limit."""
    inflater = zlib.decompressobj(WINDOWS[encoding])
    consumed, inflated = 0, bytearray()
    try:
        async for chunk in request.stream():
            while chunk:
                inflated += inflater.decompress(chunk, ALWAYS_INFLATED)
                consumed += len(chunk) - len(inflater.unconsumed_tail)
                chunk = inflater.unconsumed_tail
                allowed = min(most, max(ALWAYS_INFLATED, MOST_INFLATION * consumed))
                if len(inflated) > allowed:
                    raise TooLarge(
                        f"the body is inflated to more than {allowed:,} bytes:"
                        f" at most {most:,}, and {MOST_INFLATION} times what was sent"
                    )
    except zlib.error as error:
        raise BadRequest(f"the body is not {encoding}: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise BadRequest(f"the body is not one whole {encoding} stream")
    return bytes(inflated)
