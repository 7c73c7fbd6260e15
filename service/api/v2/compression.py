"""Compression: responses in gzip or deflate, for clients that accept them."""

import zlib

from service.api.request.body import WINDOWS

WORTH_BYTES = 1024  # smaller bodies hardly shrink
FAST = 1  # zlib's level; numbers hardly shrink more with a higher one


def pack(body: bytes, encoding: str) -> bytes:
    """The compressed body."""
    stream = zlib.compressobj(FAST, wbits=WINDOWS[encoding])
    return stream.compress(body) + stream.flush()


def choose(accepted: str) -> str | None:
    """The preferred encoding of `Accept-Encoding`, gzip before deflate; None for no compression."""
    weights = dict.fromkeys(WINDOWS, 0.0)
    for part in accepted.lower().split(","):
        name, _, weight = (piece.strip() for piece in part.partition(";"))
        if name in weights:
            weights[name] = _number(weight.removeprefix("q="))
    best = max(weights, key=lambda name: weights[name])
    return best if weights[best] > 0 else None


def _number(weight: str) -> float:
    try:
        return float(weight or 1)
    except ValueError:
        return 0.0
