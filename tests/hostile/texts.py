"""Texts that are no texts, or that are and still confuse whoever reads them."""

from collections.abc import Iterator
from random import Random

from tests.hostile.case import ANY, OK, TOO_LARGE, UNREADABLE, File
from tests.hostile.damage import archive, noise

ZALGO = "\u0301"
RIGHT_TO_LEFT = "\u202e\u200f"


def good() -> bytes:
    return b"red cat"


def files(rng: Random) -> Iterator[File]:
    """Every hostile text."""
    yield from _not_texts(rng)
    yield from _odd(rng)


def _not_texts(rng: Random) -> Iterator[File]:
    yield File("noise", b"\xff\xff" + noise(rng, 1000), UNREADABLE)
    yield File("UTF-8 cut within a character", "red \u20ac".encode()[:-1], UNREADABLE)
    yield File("a byte that UTF-8 never has", b"red \xff cat", UNREADABLE)
    yield File("an overlong slash", b"red \xc0\xaf", UNREADABLE)
    yield File("a lone surrogate", b"red \xed\xa0\x80", UNREADABLE)
    yield File("beyond Unicode's end", b"red \xf4\x90\x80\x80", UNREADABLE)
    yield File("UTF-16", "red cat".encode("utf-16"), OK)
    yield File("Latin-1", "Köln".encode("latin-1"), UNREADABLE)
    yield File("a zip archive", archive(), ANY)
    yield File("a picture", b"\x89PNG\r\n\x1a\n" + noise(rng, 100), UNREADABLE)
    for name, blank in {
        "spaces": b" \t\r\n ",
        "a mark of byte order": b"\xef\xbb\xbf",
        "a combining character": ZALGO.encode(),
        "zero-width spaces": b"\xe2\x80\x8b" * 10,
    }.items():
        yield File(f"nothing but {name}", blank, UNREADABLE)


def _odd(rng: Random) -> Iterator[File]:
    letters = "".join(map(chr, (*range(0x20, 0x7F), *range(0x400, 0x500), 0x1F600, 0x1F468)))
    for name, text in {
        "NUL": "red\x00cat",
        "control characters": "".join(map(chr, range(1, 32))) + "x",
        "right-to-left marks": f"red {RIGHT_TO_LEFT} cat",
        "ten thousand combining characters": "a" + ZALGO * 10_000,
        "noncharacters": "\ufffe\uffff",
        "flags and families": "\U0001f1e9\U0001f1ea\U0001f468\u200d\U0001f469",
        "letters by chance": "".join(rng.choices(letters, k=3000)),
        "a special token": "[CLS] [SEP] [MASK] [PAD]",
        "a format string": "%s %n {0} ${jndi:ldap://x} '; DROP TABLE models; --",
        "a byte order mark inside": "red \ufeff cat",
        "line separators": "red\u2028cat\u2029sea\x85",
        "one word of 100,000 letters": "a" * 100_000,
        "a hundred thousand words": "cat " * 100_000,
        "characters that are a word each": "\u6f22" * 30_000,
        "characters that grow in lower case": "\u0130" * 30_000,
        "many spaces before a word": " " * 500_000 + "cat",
    }.items():
        yield File(name, text.encode(), OK if len(text) < 10_000 else OK | TOO_LARGE)
    # MiniLM's tokenizer drops it and has no word left; another one may have a word for it.
    yield File("a character of the private use area", b"\xee\x80\x80", OK | UNREADABLE)
    yield File("a byte more than a million", b"a" * 1_000_001, TOO_LARGE)
