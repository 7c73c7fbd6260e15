"""Compression: answers in gzip and deflate, for those who take them so."""

import zlib

from service.api.request.body import WINDOWS

WORTH_BYTES = 1024  # less is hardly smaller when compressed
FAST = 1  # of zlib's levels: numbers hardly shrink more with the others


def pack(body: bytes, encoding: str) -> bytes:
    """The body, compressed fast."""
    stream = zlib.compressobj(FAST, wbits=WINDOWS[encoding])
    return stream.compress(body) + stream.flush()


def choose(accepted: str) -> str | None:
    """The encoding that an `Accept-Encoding` likes best, gzip before deflate; None: none."""
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
