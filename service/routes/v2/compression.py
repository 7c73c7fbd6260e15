"""Compression: bodies in gzip and deflate, both ways, within the limit on bodies."""

import zlib

from service.errors import BadRequest, TooLarge, Unsupported

GZIP = 16 + zlib.MAX_WBITS
DEFLATE = zlib.MAX_WBITS
ENCODINGS = {"gzip": GZIP, "deflate": DEFLATE}

WORTH_BYTES = 1024  # less is hardly smaller when compressed
FAST = 1  # of zlib's levels: numbers hardly shrink more with the others


def unpack(body: bytes, encoding: str, most: int) -> bytes:
    """The body that was compressed, of `most` bytes or less.

    Raises:
        Unsupported: the encoding is another.
        TooLarge: it would become more.
        BadRequest: it is damaged or cut off.
    """
    if encoding not in ENCODINGS:
        raise Unsupported(f"Content-Encoding {encoding} is not taken; send gzip or deflate")
    stream = zlib.decompressobj(ENCODINGS[encoding])
    try:
        plain = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not {encoding}: {error}") from error
    if len(plain) > most:
        raise TooLarge(f"the body has more than {most:,} bytes when decompressed")
    if not stream.eof or stream.unused_data:
        raise BadRequest(f"the body is not one whole {encoding} stream")
    return plain


def pack(body: bytes, encoding: str) -> bytes:
    """The body, compressed fast."""
    stream = zlib.compressobj(FAST, wbits=ENCODINGS[encoding])
    return stream.compress(body) + stream.flush()


def choose(accepted: str) -> str | None:
    """The encoding that an `Accept-Encoding` likes best, gzip before deflate; None: none."""
    weights = dict.fromkeys(ENCODINGS, 0.0)
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
