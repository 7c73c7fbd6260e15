"""Damage: what happens to a good file on its way."""

import io
import zipfile
from collections.abc import Iterator
from random import Random

from tests.hostile.case import ANY, File

CUTS = (0.1, 0.5, 0.9)
FLIPS = (1, 16, 256)


def damaged(name: str, content: bytes, rng: Random) -> Iterator[File]:
    """The file cut short, with bits turned, bytes lost, doubled and zeroed."""
    for share in CUTS:
        yield File(f"{name} cut at {share}", content[: int(len(content) * share)], ANY)
    for count in FLIPS:
        yield File(f"{name} with {count} bits turned", _flip(content, count, rng), ANY)
    yield File(f"{name} with bits turned in its header", _flip(content, 8, rng, most=64), ANY)
    start = rng.randrange(len(content) // 2)
    hole = content[:start] + content[start + len(content) // 10 :]
    yield File(f"{name} with a hole", hole, ANY)
    zeroed = content[:start] + bytes(len(content) // 10) + content[start + len(content) // 10 :]
    yield File(f"{name} with zeros in it", zeroed, ANY)
    yield File(f"{name} twice", content * 2, ANY)
    yield File(f"{name} and a zip archive", content + archive(), ANY)


def archive() -> bytes:
    """A zip archive, which is read from its end: with another file before it, both are valid."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr(zipfile.ZipInfo("a.txt"), "an archive")
    return file.getvalue()


def noise(rng: Random, size: int) -> bytes:
    return rng.randbytes(size)


def _flip(content: bytes, count: int, rng: Random, most: int | None = None) -> bytes:
    """With so many bits turned, in the first `most` bytes."""
    turned = bytearray(content)
    for _ in range(count):
        turned[rng.randrange(min(most or len(turned), len(turned)))] ^= 1 << rng.randrange(8)
    return bytes(turned)
