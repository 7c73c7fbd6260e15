"""Forms: raw, multipart and JSON bodies of hostile files, and forms that are broken themselves."""

import base64
import json
from collections.abc import Iterator, Sequence

from tests.hostile.case import BAD, OK, TOO_LARGE, UNREADABLE, Case, File, request

PATHS = {
    "image": ("/v1/image/classify", "/v1/image/embed", "/v1/image/preview"),
    "audio": ("/v1/audio/classify", "/v1/audio/preview"),
    "text": ("/v1/text/embed", "/v1/text/preview"),
}
JSON = "application/json"
BOUNDARY = "a-boundary-that-no-file-holds"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
EMBED = "/v1/text/embed"
SIMILARITY = "/v1/text/similarity"


def path(modality: str, number: int) -> str:
    """One of the modality's routes, in turn."""
    return PATHS[modality][number % len(PATHS[modality])]


def raw(path: str, file: File) -> Case:
    return request(f"{path} raw: {file.name}", path, file.content, file.accepted)


def part(path: str, file: File) -> Case:
    body = multipart([file.content])
    return request(
        f"{path} multipart: {file.name}", path, body, file.accepted, headers={"content-type": FORM}
    )


def base64_item(path: str, file: File) -> Case:
    body = json.dumps({"input": {"base64": base64.b64encode(file.content).decode()}}).encode()
    return request(
        f"{path} base64: {file.name}", path, body, file.accepted, headers={"content-type": JSON}
    )


def behind(neighbour: bytes, path: str, file: File) -> Case:
    """Two items, of which only the second is hostile."""
    name = f"{path} behind a good one: {file.name}"
    body = multipart([neighbour, file.content])
    return request(name, path, body, file.accepted, good_items=1, headers={"content-type": FORM})


def multipart(files: Sequence[bytes]) -> bytes:
    head = b'--%b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n%b\r\n'
    parts = b"".join(head % (BOUNDARY.encode(), file) for file in files)
    return parts + b"--%b--\r\n" % BOUNDARY.encode()


def json_cases() -> Iterator[Case]:
    """Documents that are not JSON, not of the right shape, or ambiguous."""
    for name, (body, accepted) in _documents().items():
        for target in (EMBED, "/v1/image/classify", SIMILARITY):
            # What is a text to one is no picture to another, and no list to the third.
            allowed = accepted if target == EMBED else accepted | BAD | UNREADABLE
            yield request(
                f"{target} JSON: {name}", target, body, allowed, headers={"content-type": JSON}
            )
    texts = ["red"] * 1000
    body = json.dumps({"input": texts}).encode()
    yield request("a thousand texts", EMBED, body, TOO_LARGE, headers={"content-type": JSON})
    body = json.dumps({"input": texts, "against": texts}).encode()
    yield request(
        "a thousand by a thousand", SIMILARITY, body, TOO_LARGE | OK, headers={"content-type": JSON}
    )


def _documents() -> dict[str, tuple[bytes, frozenset[int]]]:
    """Name -> body, and what is right of a route that takes texts."""
    deep = b"[" * 1000 + b"]" * 1000
    return {
        "nothing": (b"", BAD),
        "blanks": (b" \n ", BAD),
        "half a document": (b'{"input": "re', BAD),
        "something behind it": (b'{"input": "red"} {}', BAD),
        "single quotes": (b"{'input': 'red'}", BAD),
        "a comment": (b'{"input": "red" /* cat */}', BAD),
        "NaN": (b'{"input": NaN}', BAD),
        "1e999": (b'{"input": 1e999}', BAD),
        "a number of 100,000 digits": (b'{"input": %b}' % (b"9" * 100_000), BAD),
        "a list outside": (b'["red"]', BAD),
        "null": (b'{"input": null}', BAD),
        "no input": (b"{}", BAD),
        "an empty list": (b'{"input": []}', BAD),
        "an empty text": (b'{"input": ""}', BAD | UNREADABLE),
        "a list in a list": (b'{"input": [["red"]]}', BAD),
        "another key": (b'{"input": "red", "__proto__": {}}', BAD),
        "the same key twice": (b'{"input": "red", "input": "cat"}', OK | BAD),
        "a thousand deep": (b'{"input": %b}' % deep, BAD),
        "a hundred thousand deep": (b'{"input": %b' % (b"[" * 100_000), BAD),
        "objects a thousand deep": (b'{"input":' * 1000 + b"1" + b"}" * 1000, BAD),
        "invalid UTF-8": (b'{"input": "\xff"}', BAD),
        "a lone surrogate": (rb'{"input": "\ud800"}', UNREADABLE),
        "surrogates in the wrong order": (rb'{"input": "\udc00\ud800"}', UNREADABLE),
        "a NUL": (rb'{"input": "red\u0000cat"}', OK),
        "a NUL that is not escaped": (b'{"input": "red\x00cat"}', BAD),
        "UTF-16": ('{"input": "red"}'.encode("utf-16"), OK | BAD),
        "a mark of byte order": (b'\xef\xbb\xbf{"input": "red"}', OK | BAD),
        "base64 that is none": (b'{"input": {"base64": "%%%"}}', UNREADABLE),
        "base64 without its end": (b'{"input": {"base64": "cmV"}}', UNREADABLE),
        "base64 with line ends": (rb'{"input": {"base64": "cm\nVk"}}', OK),
        "base64 outside of ASCII": (rb'{"input": {"base64": "\uff43\uff4d"}}', UNREADABLE),
        "base64 that is a number": (b'{"input": {"base64": 7}}', BAD),
        "base64 and more": (b'{"input": {"base64": "cmVk", "url": "file:///etc/passwd"}}', BAD),
    }


def multipart_cases() -> Iterator[Case]:
    """Boundaries, headers and parts that are missing, broken, or too many."""
    for name, (content_type, body, accepted) in _broken_forms().items():
        for target in (EMBED, "/v1/image/classify", "/v1/multimodal/classify"):
            # A part that is good for a text is none for a picture, and needs a name elsewhere.
            allowed = (
                accepted if target == EMBED else accepted | BAD | UNREADABLE | frozenset({404})
            )
            yield request(
                f"{target} multipart: {name}",
                target,
                body,
                allowed,
                headers={"content-type": content_type},
            )


def _broken_forms() -> dict[str, tuple[str, bytes, frozenset[int]]]:
    """Name -> media type, body, and what is right of a route that takes texts."""
    good = multipart([b"red"])
    edge = BOUNDARY.encode()
    field = b'Content-Disposition: form-data; name="file"'
    file = field + b'; filename="f"'

    def one(headers: bytes, content: bytes = b"red") -> bytes:
        return b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (edge, headers, content, edge)

    return {
        "nothing": (FORM, b"", BAD),
        "no boundary": ("multipart/form-data", good, BAD),
        "an empty boundary": ("multipart/form-data; boundary=", good, BAD),
        "another boundary": ("multipart/form-data; boundary=b", good, BAD),
        "a boundary of 10,000 letters": (
            f"multipart/form-data; boundary={'b' * 10_000}",
            good,
            BAD,
        ),
        "an unknown charset": (f"{FORM}; charset=klingon", good, OK | BAD),
        "a charset that is no text": (f"{FORM}; charset=base64", good, OK | BAD),
        "no end": (FORM, good.replace(edge + b"--", b""), BAD),
        "an end within a file": (FORM, good[:-30], BAD),
        "only an end": (FORM, b"--%b--\r\n" % edge, BAD),
        "only line feeds": (FORM, good.replace(b"\r\n", b"\n"), OK | BAD),
        "a preamble and an epilogue": (FORM, b"before\r\n" + good + b"after", OK | BAD),
        "no headers": (FORM, one(b""), BAD),
        "no name": (FORM, one(b"Content-Disposition: form-data"), BAD),
        "no disposition": (FORM, one(b"Content-Type: text/plain"), BAD),
        "a header without a colon": (FORM, one(file + b"\r\nnonsense"), OK | BAD),
        "a header of 100 KB": (FORM, one(file + b"\r\nX: " + b"x" * 100_000), OK | BAD | TOO_LARGE),
        "10,000 headers": (FORM, one(file + b"\r\nX: x" * 10_000), OK | BAD | TOO_LARGE),
        "a NUL in the name": (FORM, one(file.replace(b'"file"', b'"fi\x00le"')), OK | BAD),
        "a name that is not UTF-8": (FORM, one(file.replace(b'"file"', b'"\xff"')), OK | BAD),
        "a filename that climbs": (FORM, one(field + b'; filename="../../etc/passwd"'), OK),
        "a file that is not base64 as it says": (
            FORM,
            one(file + b"\r\nContent-Transfer-Encoding: base64"),
            UNREADABLE,
        ),
        "a form in a form": (
            FORM,
            one(file + b"\r\nContent-Type: multipart/mixed", good),
            OK | BAD,
        ),
        "an empty file": (FORM, one(file, b""), BAD | UNREADABLE),
        "257 files": (FORM, multipart([b"red"] * 257), TOO_LARGE),
        "2,000 fields": (
            FORM,
            multipart([b"red"] * 2000).replace(b'; filename="f"', b""),
            TOO_LARGE,
        ),
        "a field of 2 MB": (FORM, one(field, b"a" * 2**21), BAD | TOO_LARGE),
    }
