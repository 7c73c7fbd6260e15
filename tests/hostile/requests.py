"""Requests whose head is hostile: headers, queries, paths, verbs, and what is not HTTP at all."""

import gzip
import zlib
from collections.abc import Iterator

from tests.hostile.case import ANY, BAD, OK, REFUSED, TOO_LARGE, UNREADABLE, Case, request
from tests.hostile.forms import EMBED, JSON

TOO_MUCH_HEAD = frozenset({400, 431})
NOT_FOUND = frozenset({404})
WRONG_VERB = frozenset({405})
NOT_TAKEN = frozenset({415})
TOO_LONG = frozenset({414})
ZEROS = bytes(20_000_000)


def cases() -> Iterator[Case]:
    yield from _headers()
    yield from _queries()
    yield from _paths()
    yield from _encodings()
    yield from _lengths()
    yield from _not_http()


def _headers() -> Iterator[Case]:
    for value in ("0", "-1", "1.5", "1e3", "100001", "9" * 5000, "soon", "", "٣", "\udcff"):
        shown = value[:9].encode("utf-8", "backslashreplace").decode()
        yield request(
            f"a deadline of {shown!r}", EMBED, b"red", BAD, headers={"x-timeout-ms": value}
        )
    for name, value in {"long": "x" * 5000, "Chinese": "请求", "Latin-1": "\udce9"}.items():
        yield request(
            f"a request id that is {name}", EMBED, b"red", OK, headers={"x-request-id": value}
        )
    for value in ("", ";;;", "image", "multipart", "text/plain; charset=klingon", "x" * 5000):
        yield request(
            f"a media type {value[:20]!r}",
            EMBED,
            b"red",
            OK | NOT_TAKEN,
            headers={"content-type": value},
        )
    yield request(
        "a header of 100 KB", EMBED, b"red", OK | TOO_MUCH_HEAD, headers={"x-long": "x" * 100_000}
    )
    many = {f"x-{number}": "x" for number in range(2000)}
    yield request("2000 headers", EMBED, b"red", OK | TOO_MUCH_HEAD, headers=many)
    yield request("a range", EMBED, b"red", OK, headers={"range": "bytes=0-18446744073709551615"})
    yield request("an origin", EMBED, b"red", OK, headers={"origin": "http://evil.example"})
    yield request(
        "another method within", EMBED, b"red", OK, headers={"x-http-method-override": "DELETE"}
    )
    yield request(
        "a token that is none", EMBED, b"red", OK, headers={"authorization": "Bearer \udcff\udcfe"}
    )


def _queries() -> Iterator[Case]:
    wrong = BAD | NOT_FOUND | TOO_LONG | TOO_MUCH_HEAD
    for query in (
        "topk=5",
        "top_k=0",
        "top_k=-1",
        "top_k=1e3",
        "top_k=99999999999999999999",
        "top_k=%EF%BC%95",
        "model=",
        "model=..%2F..%2Fetc%2Fpasswd",
        "model=%00",
        "model=%FF%FE",
        "model=x&version=" + "9" * 100,
        "version=-1",
        "version=%D9%A3",
        "x=1",
        "a[b]=c",
        "&".join(f"a{number}=1" for number in range(5000)),
        "model=" + "x" * 50_000,
        "&".join(["model=x"] * 100),
    ):
        target = f"/v1/image/classify?{query}"
        yield request(f"the query {query[:40]}", target, b"red", wrong | UNREADABLE)
    for query in ("%", "%zz", "&&&", "=", "?"):
        target = f"/v1/image/classify?{query}"
        yield request(f"the query {query}", target, b"red", wrong | UNREADABLE)
    yield request("labels that are empty", "/v1/text/classify?labels=", b"red", REFUSED)
    many = "&".join(f"labels={number}" for number in range(300))
    yield request("300 labels", f"/v1/text/classify?{many}", b"red", REFUSED)
    yield request("a NUL as label", "/v1/text/classify?labels=%00&labels=a", b"red", ANY)


def _paths() -> Iterator[Case]:
    for path in (
        "/v1",
        "//v1//image//classify",
        "/v1/../etc/passwd",
        "/v1/models/..%2F..%2Fetc%2Fpasswd",
        "/v1/models/%00",
        "/v1/models/%FF",
        "/v1/models/" + "x" * 5000,
        "/.git/config",
        "/" + "a/" * 3000,
    ):
        missing = NOT_FOUND | BAD | TOO_LONG | TOO_MUCH_HEAD | WRONG_VERB
        yield request(f"GET {path[:40]}", path, b"", missing, method="GET")
    for method in ("GET", "DELETE", "PATCH", "TRACE", "OPTIONS"):
        yield request(f"{method} where only POST goes", EMBED, b"", WRONG_VERB, method=method)
    yield request("POST where only GET goes", "/livez", b"red", WRONG_VERB)


def _encodings() -> Iterator[Case]:
    """Packed bodies: taken, refused, or read as what they are; never a fault."""
    refused = REFUSED | NOT_TAKEN
    for name, coding, body in (
        ("gzip of 20 MB", "gzip", _gzip(ZEROS)),
        ("deflate of 20 MB", "deflate", zlib.compress(ZEROS)),
        ("gzip in gzip", "gzip, gzip", _gzip(_gzip(ZEROS))),
        ("gzip that is cut short", "gzip", _gzip(b"red cat" * 999)[:-9]),
        ("gzip that is none", "gzip", b"\xff not packed"),
        ("deflate that is none", "deflate", b"\xff not packed"),
        ("brotli", "br", b"\xff\x0b\x03\x80red\x03"),
        ("a coding that is none", "klingon", b"\xffred"),
        ("a hundred codings", ", ".join(["gzip"] * 100), _gzip(b"red")),
    ):
        yield request(f"packed: {name}", EMBED, body, refused, headers={"content-encoding": coding})
    yield request(
        "packed: gzip", EMBED, _gzip(b"red"), OK | refused, headers={"content-encoding": "gzip"}
    )


def _lengths() -> Iterator[Case]:
    for length in (10**10, 10**17):
        # It lies, so that whatever came next on its connection would be a part of this body.
        lie = {"content-length": str(length), "connection": "close"}
        yield request(f"a length of {length}", EMBED, b"red", TOO_LARGE, headers=lie)
    chunked = {"transfer-encoding": "chunked", "content-type": JSON}
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"input": "red"}') + b"0\r\n\r\n"
    yield request("chunks of one byte", EMBED, pieces, OK, headers=chunked)
    yield request("chunks of nothing", EMBED, b"0\r\n\r\n", BAD, headers=chunked)


def _not_http() -> Iterator[Case]:
    """The server's parser answers 400, or hangs up."""
    post = b"POST /v1/text/embed HTTP/1.1\r\nhost: sensorium\r\n"
    for name, message in {
        "nonsense": b"nonsense\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n",
        "a verb that is none": b"SMUGGLE / HTTP/1.1\r\nhost: x\r\n\r\n",
        "a negative length": post + b"content-length: -1\r\n\r\nred",
        "a length of 30 digits": post + b"content-length: %b\r\n\r\nred" % (b"9" * 30),
        "a length that is no number": post + b"content-length: 3x\r\n\r\nred",
        "two lengths": post + b"content-length: 3\r\ncontent-length: 4\r\n\r\nred!",
        "a length and chunks": post
        + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "a chunk of no size": post + b"transfer-encoding: chunked\r\n\r\nred\r\n",
        "a chunk of 2^64 bytes": post
        + b"transfer-encoding: chunked\r\n\r\n10000000000000000\r\nred\r\n",
        "a header that is none": post + b"no colon\r\n\r\n",
        "a NUL in a header": post + b"x: a\x00b\r\n\r\n",
    }.items():
        yield Case(f"not HTTP: {name}", message, BAD | NOT_FOUND | WRONG_VERB, is_http=False)


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)
