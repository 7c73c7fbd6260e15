"""Forms, content types and encodings: each variant is read as it is meant, or refused in words."""

import base64
import binascii
import codecs
import encodings
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from encodings.aliases import aliases
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from service.api.request.media import to_utf8
from service.api.request.multipart import MAX_LOOKALIKES
from service.errors import UnknownMediaType
from tests.conftest import VOCABULARY, png, tone
from tests.test_routes import serving

pytestmark = pytest.mark.anyio

RED, BLUE, LOUD = png((250, 10, 10)), png((10, 10, 250)), tone(0.9)
# As wide as the number that means =, so that it begins like a field of a URL-encoded form.
GIF = b"GIF89a=\x00\x01\x00\x80\x00\x00\x00\x00\xff\x00\x00\xff,\x00\x00\x00\x00=\x00\x01\x00\x00"
TEXT = "red cat"  # its two words share the vector, which nothing but this text has
DOCUMENT = json.dumps({"input": TEXT}).encode()
EMBED, SEE, HEAR = "/v1/text/embed", "/v1/image/classify", "/v1/audio/classify"
JSON = "application/json"
URLENCODED = "application/x-www-form-urlencoded"
FORM = "multipart/form-data; boundary=XX"
FILE = b'Content-Disposition: form-data; name="f"; filename="a"'
FIELD = b'Content-Disposition: form-data; name="f"'


@dataclass(frozen=True)
class Refused:
    """By this status, in a sentence that holds these words."""

    status: int
    words: str


Meaning = Sequence[str | Refused] | Refused


@dataclass(frozen=True)
class Variant:
    """A request, and the texts or labels that it means; of an item that has none, its refusal."""

    name: str
    path: str
    body: bytes
    content_type: str | None
    means: Meaning
    filenames: Sequence[str | None] = ()


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"XX") -> bytes:
    """A form of parts: headers, content."""
    pieces = [b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, content) for head, content in parts]
    return b"".join(pieces) + b"--%b--\r\n" % boundary


def encoded(content: bytes, encoding: str) -> bytes:
    return form((FILE + b"\r\nContent-Transfer-Encoding: " + encoding.encode(), content))


def json_of(value: Any) -> bytes:
    return json.dumps({"input": value}).encode()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def multipart_variants() -> Iterator[Variant]:
    """RFC 2046 and RFC 7578: what they allow is read, and what they do not is refused."""
    text = TEXT.encode()
    plain = form((FILE, text))
    good: dict[str, bytes] = {
        "plain": plain,
        "blanks behind a delimiter": plain.replace(b"--XX\r\n", b"--XX \t \r\n"),
        "blanks behind the last delimiter": plain.replace(b"--XX--\r\n", b"--XX-- \t\r\n"),
        "no line end at the end": plain[:-2],
        "a preamble": b"this is a form\r\n" + plain,
        "an empty line before": b"\r\n" + plain,
        "a boundary within a preamble's line": b"see --XXL\r\n" + plain,
        "a boundary that goes on in the preamble": b"--XXL\r\n" + plain,
        "the boundary within a preamble's line": b"see --XX\r\n" + plain,
        "an epilogue": plain + b"nothing\r\n--XX\r\n",
        "a folded header": form((FILE.replace(b"; ", b";\r\n "), text)),
        "a header folded by a tab": form((FILE.replace(b"; ", b";\r\n\t"), text)),
        "a header in capitals": form((FILE.replace(b"Content-Disp", b"CONTENT-DISP"), text)),
        "a header in small letters": form((FILE.lower(), text)),
        "parameters in capitals": form((FILE.replace(b"name=", b"NAME="), text)),
        "blanks around parameters": form((FILE.replace(b"; name=", b" ; name = "), text)),
        "no blanks between parameters": form((FILE.replace(b"; ", b";"), text)),
        "a name without quotes": form((FILE.replace(b'"', b""), text)),
        "the file's name first": form(
            (b'Content-Disposition: form-data; filename="a"; name="f"', text)
        ),
        "a disposition of attachment": form((FILE.replace(b"form-data", b"attachment"), text)),
        "a semicolon within a name": form((FILE.replace(b'"f"', b'"f;x=1"'), text)),
        "quotes within a name": form((FILE.replace(b'"f"', rb'"f\"; x=\""'), text)),
        "an empty name": form((FILE.replace(b'"f"', b'""'), text)),
        "a name beyond ASCII": form((FILE.replace(b'"f"', '"Größe"'.encode()), text)),
        "other headers": form((b"X-Other: 1\r\n" + FILE + b"\r\nContent-Length: 7", text)),
        "a content type": form((FILE + b"\r\nContent-Type: text/plain", text)),
        "an octet stream": form((FILE + b"\r\nContent-Type: application/octet-stream", text)),
        "markdown": form((FILE + b"\r\nContent-Type: text/markdown", text)),
        "a field": form((FIELD, text)),
        "a field of a charset": form(
            (FIELD + b"\r\nContent-Type: text/plain; charset=utf-16", TEXT.encode("utf-16"))
        ),
        "a file in UTF-16 with its mark": form((FILE, TEXT.encode("utf-16"))),
        "a charset for all fields": form((b'content-disposition: form-data; name="_charset_"',
            b"utf-16le"), (FIELD, TEXT.encode("utf-16le"))),
        "a file that nobody chose": form(
            (FILE.replace(b'"a"', b'""') + b"\r\nContent-Type: application/octet-stream", b""),
            (FILE, text),
        ),
    }  # fmt: skip
    for name, body in good.items():
        yield Variant(name, EMBED, body, FORM, [TEXT])
    line = b"\r\n--XXY"
    yield Variant("a line that begins with the boundary", EMBED, form((FILE, text + line)), FORM,
                  [f"{TEXT} [UNK] [UNK]"])  # fmt: skip
    yield Variant("a line that ends in the boundary", EMBED, form((FILE, text + b"\r\n-XX--XX")),
                  FORM, [f"{TEXT} [UNK] [UNK] [UNK] [UNK]"])  # fmt: skip
    for encoding in ("7bit", "8bit", "binary", "8BIT", " binary "):
        yield Variant(f"transfer encoding {encoding}", EMBED, encoded(text, encoding), FORM, [TEXT])
    lines = base64.encodebytes(b"red cat " * 8).replace(b"\n", b"\r\n")
    for name, body, means in (
        ("base64", encoded(base64.b64encode(text), "base64"), TEXT),
        ("BASE64", encoded(base64.b64encode(text), "BASE64"), TEXT),
        ("base64 in lines", encoded(lines, "base64"), TEXT),
        ("quoted-printable", encoded(b"red=20c=61t", "quoted-printable"), TEXT),
        ("quoted-printable in small letters", encoded(b"red=0dcat", "quoted-printable"), TEXT),
        (
            "quoted-printable with soft line ends",
            encoded(b"red c=\r\nat", "quoted-printable"),
            TEXT,
        ),
        ("quoted-printable that ends softly", encoded(b"red cat=", "quoted-printable"), TEXT),
    ):
        yield Variant(f"transfer encoding {name}", EMBED, body, FORM, [means])
    for name, body, refused in (
        ("x-uuencode", encoded(text, "x-uuencode"), Refused(415, "base64 or quoted-printable")),
        ("gzip", encoded(text, "gzip"), Refused(415, "Content-Transfer-Encoding gzip")),
        ("base64 that is none", encoded(b"red cat!", "base64"), Refused(422, "not base64")),
        ("base64 cut off", encoded(b"cmVkIGN", "base64"), Refused(422, "cut off")),
        ("bad quoted-printable", encoded(b"a=b", "quoted-printable"), Refused(422, "byte 1")),
    ):
        yield Variant(f"transfer encoding {name}", EMBED, body, FORM, refused)
    yield Variant("a picture in base64 in lines", SEE,
                  encoded(base64.encodebytes(RED), "base64"), FORM, ["red"])  # fmt: skip
    yield Variant("a picture in quoted-printable", SEE,
                  encoded(binascii.b2a_qp(RED, istext=False), "quoted-printable"), FORM,
                  ["red"])  # fmt: skip
    yield Variant("a data URI in a field", SEE,
                  form((FIELD, b"data:image/png;base64," + base64.b64encode(BLUE))),
                  FORM, ["blue"])  # fmt: skip
    for name, boundary in (
        ("in quotes", 'boundary="XX"'),
        ("in quotes, with blanks around", 'boundary = "XX" '),
        ("before a parameter", "boundary=XX; charset=utf-8"),
        ("behind a parameter", "charset=UTF-8;boundary=XX"),
        ("in capitals", "BOUNDARY=XX"),
    ):
        kind = f"multipart/form-data; {boundary}"
        yield Variant(f"a boundary {name}", EMBED, plain, kind, [TEXT])
    odd = "a'()+_,-./:=? b"  # all that RFC 2046 allows
    yield Variant("a boundary of all signs", EMBED,
                  form((FILE, text), boundary=odd.encode()),
                  f'multipart/form-data; boundary="{odd}"', [TEXT])  # fmt: skip
    yield Variant("a media type in capitals", EMBED, plain, FORM.replace("multi", "MULTI"), [TEXT])
    unfit = {
        "JSON": Refused(415, "send a text as text/plain"),
        "a picture": Refused(415, "send a text as text/plain"),
        "a form": Refused(415, "send a text as text/plain"),
        "an unknown charset": Refused(415, "charset klingon is not supported"),
        "a slow charset": Refused(415, "charset punycode is not supported"),
    }
    kinds = (
        "application/json", "image/png", "multipart/mixed; boundary=y",
        "text/plain; charset=klingon", "text/plain; charset=punycode",
    )  # fmt: skip
    for (name, refused), kind in zip(unfit.items(), kinds, strict=True):
        head = FILE + b"\r\nContent-Type: " + kind.encode()
        yield Variant(f"a part that is {name}", EMBED, form((head, text)), FORM, refused)
        two = form((head, text), (FILE, text))
        yield Variant(f"a part that is {name}, and a good one", EMBED, two, FORM, [refused, TEXT],
                      ["a", "a"])  # fmt: skip
    for name, body, words in (
        ("no name", form((b"Content-Disposition: form-data", text)), "has no name"),
        ("a file without a name", form((b'Content-Disposition: form-data; filename="a"', text)),
         'name="..."'),
        ("no headers", b"--XX\r\n\r\nred\r\n--XX--", "has no name"),
        ("only line feeds", plain.replace(b"\r\n", b"\n"), "CR LF"),
        ("no end", plain[:-8], "begin and end with its boundary"),
        ("another boundary", plain.replace(b"XX", b"YY"), "begin and end with its boundary"),
        ("an end that goes on", plain.replace(b"--XX--", b"--XX--more"), "begin and end"),
        ("no part", b"--XX--\r\n", "has no item"),
        ("only a file that nobody chose", form((FILE.replace(b'"a"', b'""'), b"")), "no item"),
        ("the model as a field", form((FIELD.replace(b'"f"', b'"model"'), b"words"), (FILE, text)),
         "model belongs in the query, not in the body: ?model="),
        ("top_k as a field", form((FIELD.replace(b'"f"', b'"top_k"'), b"1")), "?top_k="),
        ("lines like the boundary without end",
         form((FILE, b"\r\n--XXY" * (MAX_LOOKALIKES + 1))), "choose a boundary"),
    ):  # fmt: skip
        yield Variant(name, EMBED, body, FORM, Refused(400, words))
    for kind in ("mixed", "related", "alternative", "byteranges", "x-mixed-replace", "digest"):
        for path in (EMBED, SEE):
            yield Variant(f"multipart/{kind}", path, plain, f"multipart/{kind}; boundary=XX",
                          Refused(415, "send multipart/form-data"))  # fmt: skip
    yield Variant("no boundary", EMBED, plain, "multipart/form-data",
                  Refused(400, "let the HTTP client set this header"))  # fmt: skip
    yield Variant("an empty boundary", EMBED, plain, "multipart/form-data; boundary=",
                  Refused(400, "has no boundary"))  # fmt: skip
    for other in ("text/plain", "application/octet-stream", None):
        for path in (EMBED, SEE, HEAR):
            yield Variant("a form called otherwise", path, plain, other,
                          Refused(415, "with Content-Type: multipart/form-data"))  # fmt: skip


def filename_variants() -> Iterator[Variant]:
    """What a file is called comes back beside its answer."""
    for name, written, filename in (
        ("a file's name", b'filename="a.txt"', "a.txt"),
        ("without quotes", b"filename=a.txt", "a.txt"),
        ("with blanks and a semicolon", b'filename="a; b.txt"', "a; b.txt"),
        ("in UTF-8", 'filename="Größe.txt"'.encode(), "Größe.txt"),
        ("extended", b"filename*=UTF-8''Gr%C3%B6%C3%9Fe.txt", "Größe.txt"),
        ("extended in Latin 1", b"filename*=iso-8859-1'de'Gr%F6%DFe.txt", "Größe.txt"),
        ("both", b"filename=\"G.txt\"; filename*=utf-8''Gr%C3%B6%C3%9Fe.txt", "Größe.txt"),
        ("a path of Windows", rb'filename="C:\texts\a.txt"', r"C:\texts\a.txt"),
        ("quotes in it", rb'filename="a \"b\".txt"', 'a "b".txt'),
        ("as browsers write quotes", b'filename="a %22b%22.txt"', "a %22b%22.txt"),
        ("that climbs", b'filename="../../etc/passwd"', "../../etc/passwd"),
        ("that is no UTF-8", b'filename="\xff.txt"', "\ufffd.txt"),
        ("empty", b'filename=""', None),
    ):
        head = FIELD + b"; " + written
        yield Variant(f"filename {name}", EMBED, form((head, TEXT.encode())), FORM, [TEXT],
                      [filename])  # fmt: skip
    files = form((FIELD + b'; filename="r.png"', RED), (FIELD + b'; filename="no.png"', b"no"))
    yield Variant("filenames of pictures", SEE, files, FORM,
                  ["red", Refused(422, "not a supported image")], ["r.png", "no.png"])  # fmt: skip
    yield Variant("a field has none", EMBED, form((FIELD, b"sea"), (FILE, b"dog")), FORM,
                  ["sea", "dog"], [None, "a"])  # fmt: skip


def media_type_variants() -> Iterator[Variant]:
    """What a body is called, and what it is."""
    text = TEXT.encode()
    for kind in (
        None, "text/plain", "TEXT/Plain", "text/plain; charset=utf-8", "text/plain;charset=UTF8",
        'text/plain; charset="utf-8"', "text/plain; format=flowed", "text/markdown", "text/html",
        "text/csv", "application/octet-stream", "binary/octet-stream", URLENCODED,
    ):  # fmt: skip
        yield Variant(f"a text as {kind}", EMBED, text, kind, [TEXT])
    for kind in (
        "image/png", "audio/wav", "video/mp4", "application/pdf", "application/xml",
        "application/x-ndjson", "application/jsonl", "application/graphql", "message/rfc822",
        "application/json, text/plain", "nonsense",
    ):  # fmt: skip
        yield Variant(f"a text as {kind}", EMBED, text, kind, Refused(415, "send text/plain"))
    json_kinds = (
        "application/json", "Application/JSON", "application/json; charset=utf-8", "text/json",
        "application/x-json", "text/x-json", "application/problem+json", "application/ld+json",
        "application/vnd.api+json; version=1", "application/json;odata=verbose",
    )  # fmt: skip
    for kind in json_kinds:
        yield Variant(f"JSON as {kind}", EMBED, DOCUMENT, kind, [TEXT])
        yield Variant(f"no JSON as {kind}", EMBED, text, kind, Refused(400, "not JSON"))
    picture = json_of({"base64": base64_of(RED)})
    for kind in (None, "text/plain", "text/plain;charset=UTF-8", URLENCODED,
                 "application/octet-stream"):  # fmt: skip
        yield Variant(f"JSON as {kind}", EMBED, b" \r\n" + DOCUMENT, kind, [TEXT])
        yield Variant(
            f"JSON with a mark as {kind}", EMBED, b"\xef\xbb\xbf" + DOCUMENT, kind, [TEXT]
        )
        yield Variant(f"a picture in JSON as {kind}", SEE, picture, kind, ["red"])
        yield Variant(f"JSON without input as {kind}", EMBED, b'{"text": "red cat"}', kind,
                      Refused(415, "send it with Content-Type: application/json"))  # fmt: skip
        yield Variant(f"a list in JSON as {kind}", EMBED, b'["red", "cat"]', kind,
                      Refused(415, '{"input": ...}'))  # fmt: skip
    for kind in ("image/png", "application/x-ndjson"):
        yield Variant(f"JSON as {kind}", SEE, picture, kind, ["red"])
    yield Variant("lines of JSON", SEE, picture + b"\n" + picture, "application/x-ndjson",
                  Refused(400, "not JSON"))  # fmt: skip
    for name, raw in (
        ("in quotes", '"red cat"'), ("a footnote", "[1] red"), ("a brace", "{red} cat"),
        ("a dash", "-- red"), ("a number", "7"), ("a list without quotes", "[red, cat]"),
    ):  # fmt: skip
        for kind in ("text/plain", URLENCODED):
            words = " ".join(re.findall(r"\w+|[^\w\s]+", raw))  # as the tokenizer splits it
            yield Variant(f"a text {name} as {kind}", EMBED, raw.encode(), kind, [words])
    for kind in ("image/png", "image/jpeg", "text/plain", URLENCODED, "nonsense", None):
        yield Variant(f"a picture as {kind}", SEE, BLUE, kind, ["blue"])
        yield Variant(f"a recording as {kind}", HEAR, LOUD, kind, ["loud"])
    uri = b"data:image/png;base64," + base64.b64encode(BLUE)
    for other in (None, "text/plain", "image/png", URLENCODED):
        yield Variant(f"a data URI as {other}", SEE, uri, other, ["blue"])
        yield Variant(f"a data URI for a text as {other}", EMBED, uri,
                      None if other == "image/png" else other,
                      Refused(422, "the text is a data URI"))  # fmt: skip
    yield Variant("a text that begins like a data URI", EMBED, b"data: red", None,
                  ["data [UNK] red"])  # fmt: skip
    yield Variant(
        "a GIF that begins like a field", SEE, GIF, URLENCODED, Refused(422, "not supported")
    )


def url_encoded_variants() -> Iterator[Variant]:
    """What a browser's form sends, and `curl -d`, which calls anything a form."""
    for name, body, means in (
        ("a field", "text=red+cat", [TEXT]),
        ("called input", "input=red%20cat", [TEXT]),
        ("with blanks, by hand", "text=red cat", [TEXT]),
        ("two", "text=red+cat&text=sea", [TEXT, "sea"]),
        ("beyond ASCII", "text=red+%C3%A9", ["red [UNK]"]),
        ("beyond ASCII, by hand", "text=red é", ["red [UNK]"]),
        ("an equals sign in it", "text=red+=+cat", ["red [UNK] cat"]),
        ("no form", "red cat", [TEXT]),
        ("no form, one word", "sea", ["sea"]),
        ("no form, with an equals sign", "a red = cat", ["[UNK] red [UNK] cat"]),
        ("no form, with a per cent sign", "100 % red", ["[UNK] [UNK] red"]),
        ("no form, with a plus", "red + cat", ["red [UNK] cat"]),
        ("an ampersand", "red & cat", ["red [UNK] cat"]),
        ("it may be encoded", "red%20cat", Refused(415, "Content-Type: text/plain")),
        ("it may be encoded by a plus", "red+cat", Refused(415, "Content-Type: text/plain")),
        ("another name", "message=red", Refused(400, "name the field text")),
        ("a formula", "x=1", Refused(400, "Content-Type: text/plain")),
        ("the model in it", "text=red&model=words", Refused(400, "model belongs in the query")),
        ("Latin 1", "text=%E9", Refused(422, "not UTF-8")),
        ("nothing", "text=", Refused(400, "has no item")),
        ("257 fields", "&".join(["text=red"] * 257), Refused(413, "more than 256")),
    ):
        yield Variant(f"URL-encoded: {name}", EMBED, body.encode(), URLENCODED, means)
    for name, path in (("image", SEE), ("audio", HEAR), ("input", SEE), ("file", HEAR)):
        yield Variant(f"URL-encoded: a file as {name}", path, f"{name}=%89PNG".encode(), URLENCODED,
                      Refused(415, "cannot hold files"))  # fmt: skip


def charset_variants() -> Iterator[Variant]:
    """A text in what it says it is in."""
    for charset, codec in (
        ("utf-8", "utf-8"), ("UTF-8", "utf-8-sig"), ("us-ascii", "ascii"), ("latin-1", "latin-1"),
        ("iso-8859-1", "latin-1"), ("ISO-8859-15", "iso8859-15"), ("windows-1252", "cp1252"),
        ("utf-16", "utf-16"), ("utf-16le", "utf-16-le"), ("utf-16be", "utf-16-be"),
        ("utf-32", "utf-32"), ("utf-32be", "utf-32-be"), ("shift_jis", "shift_jis"),
        ("gb18030", "gb18030"), ("big5", "big5"), ("euc-kr", "euc_kr"), ("koi8-r", "koi8-r"),
    ):  # fmt: skip
        kind = f"text/plain; charset={charset}"
        yield Variant(f"a text in {charset}", EMBED, TEXT.encode(codec), kind, [TEXT])
        kind = f"application/json; charset={charset}"
        yield Variant(f"JSON in {charset}", EMBED, DOCUMENT.decode().encode(codec), kind, [TEXT])
    blank = "red\u00a0cat"  # in Latin 1 one byte, which is no UTF-8
    yield Variant("Latin 1", EMBED, blank.encode("latin-1"), "text/plain; charset=latin1", [TEXT])
    yield Variant("Windows' quotes", EMBED, b"\x93red\x94", "text/plain; charset=iso-8859-1",
                  ["[UNK] red [UNK]"])  # fmt: skip
    yield Variant("Latin 1 in JSON", EMBED, json.dumps({"input": blank}, ensure_ascii=False)
                  .encode("latin-1"), "application/json; charset=latin1", [TEXT])  # fmt: skip
    for codec in ("utf-8-sig", "utf-16", "utf-32"):
        for other in (None, "text/plain", "text/plain; charset=utf-8"):
            yield Variant(f"{codec} as {other}", EMBED, TEXT.encode(codec), other, [TEXT])
    big = b"\xfe\xff" + TEXT.encode("utf-16-be")
    yield Variant("UTF-16, big end first", EMBED, big, "text/plain", [TEXT])
    yield Variant("JSON in UTF-16 as text", EMBED, DOCUMENT.decode().encode("utf-16"), "text/plain",
                  [TEXT])  # fmt: skip
    for charset in ("klingon", "base64", "punycode", "idna", "utf-7", "rot13", "unicode_escape",
                    "zlib", "undefined", "a b", "x"):  # fmt: skip
        kind = f"text/plain; charset={charset}"
        yield Variant(f"charset {charset}", EMBED, TEXT.encode(), kind, Refused(415, "send UTF-8"))
    for charset, body in (("utf-16", b"\xff\xfer"), ("shift_jis", b"\xff\xff"), ("gbk", b"\xff"),
                          ("windows-1252", b"\x81"), ("utf-16", b"\xff\xfe\x00\xd8")):  # fmt: skip
        yield Variant(f"not {charset}: {body!r}", EMBED, body, f"text/plain; charset={charset}",
                      Refused(422, "the text is not"))  # fmt: skip
    for codec in ("utf-16-le", "utf-16-be"):
        for other in (None, "text/plain", "text/plain; charset=utf-8", URLENCODED):
            yield Variant(f"{codec} without a mark as {other}", EMBED, TEXT.encode(codec), other,
                          Refused(422, "declare it"))  # fmt: skip
        yield Variant(f"a file in {codec} without a mark", EMBED,
                      form((FILE, TEXT.encode(codec))), FORM,
                      Refused(422, "declare it"))  # fmt: skip
        yield Variant(f"JSON in {codec} without a mark", EMBED, DOCUMENT.decode().encode(codec),
                      JSON, [TEXT])  # fmt: skip
    yield Variant("not UTF-8", EMBED, b"caf\xe9", "text/plain", Refused(422, "not UTF-8"))


def json_variants() -> Iterator[Variant]:
    """Shapes of JSON, base64 and data URIs."""
    red, text = base64_of(RED), base64_of(TEXT.encode())
    wrapped = "\r\n".join(red[n : n + 76] for n in range(0, len(red), 76))
    awkward = next(b for n in range(99) if b"+" in (b := base64.b64encode(png((250, 10, n % 20),
                   (16 + n, 16)))) and b"/" in b)  # fmt: skip
    urlsafe = awkward.translate(bytes.maketrans(b"+/", b"-_")).decode()
    svg = "data:image/svg+xml;utf8,<svg/>"
    items: tuple[tuple[str, str, Any, Meaning], ...] = (
        ("a text", EMBED, TEXT, [TEXT]),
        ("a list", EMBED, [TEXT, "sea"], [TEXT, "sea"]),
        ("base64", EMBED, {"base64": text}, [TEXT]),
        ("base64 and null", EMBED, {"base64": text, "name": None}, [TEXT]),
        ("base64 and a text", EMBED, [{"base64": text}, "sea"], [TEXT, "sea"]),
        ("a data URI in base64", EMBED, {"base64": f"data:text/plain;base64,{text}"}, [TEXT]),
        ("a data URI with escapes", EMBED, {"base64": "data:,red%20cat"}, [TEXT]),
        ("a data URI with a charset", EMBED,
         {"base64": "data:text/plain;charset=iso-8859-1,red%A0cat"}, [TEXT]),
        ("a data URI in UTF-16", EMBED, {"base64": "data:text/plain;charset=utf-16;base64,"
         + base64_of(TEXT.encode("utf-16"))}, [TEXT]),
        ("a picture", SEE, {"base64": red}, ["red"]),
        ("a picture in lines", SEE, {"base64": wrapped}, ["red"]),
        ("a picture with blanks", SEE, {"base64": f" {red}\n"}, ["red"]),
        ("a picture in the alphabet for URLs", SEE, {"base64": urlsafe}, ["red"]),
        ("a picture's data URI", SEE, {"base64": f"data:image/png;base64,{red}"}, ["red"]),
        ("a data URI as a string", SEE, f"data:image/png;base64,{red}", ["red"]),
        ("a data URI in capitals", SEE, f"DATA:IMAGE/PNG;BASE64,{red}", ["red"]),
        ("a data URI without a type", SEE, f"data:;base64,{red}", ["red"]),
        ("a data URI with parameters", SEE, f"data:image/png;name=a.png;base64,{red}", ["red"]),
        ("a data URI in lines", SEE, f"data:image/png;base64,{wrapped}", ["red"]),
        ("a data URI whose base64 is escaped", SEE,
         f"data:image/png;base64,{quote(red, safe='')}", ["red"]),
        ("a data URI without base64", SEE, "data:image/png," + quote(RED), ["red"]),
        ("data URIs", SEE, [f"data:image/png;base64,{base64_of(p)}" for p in (RED, BLUE)],
         ["red", "blue"]),
        ("a recording's data URI", HEAR, f"data:audio/wav;base64,{base64_of(LOUD)}", ["loud"]),
        ("an SVG", SEE, svg, Refused(422, "not a supported image")),
        ("a data URI that is cut off", SEE, "data:image/png;base64", Refused(400, "a data URI or")),
        ("base64 as a string", SEE, red, Refused(400, "a data URI or")),
        ("a URL", SEE, "http://example.com/a.png", Refused(400, "a data URI or")),
        ("base64 without its end", EMBED, {"base64": text[:-1]}, Refused(422, "final = is")),
        ("base64 that is none", EMBED, {"base64": "red!"}, Refused(422, "not base64")),
        ("base64 beyond ASCII", EMBED, {"base64": "réd!"}, Refused(422, "not base64")),
        ("base64 that goes on", EMBED, {"base64": "cg==cmVk"}, Refused(422, "not base64")),
        ("a data URI as a text", EMBED, f"data:image/png;base64,{red}", Refused(422, "a data URI")),
        ("a text like a data URI", EMBED, "data:red,sea", ["data [UNK] red [UNK] sea"]),
        ("empty base64", EMBED, {"base64": ""}, Refused(400, "no item")),
        ("null", EMBED, None, Refused(400, "no key input")),
        ("null among texts", EMBED, ["sea", None], ["sea", Refused(400, "a string or")]),
        ("base64 that is null", EMBED, {"base64": None}, Refused(400, "a string or")),
        ("a number", EMBED, 7, Refused(400, "a string or")),
        ("another key of an item", EMBED, {"text": "red"}, Refused(400, '{"base64": "..."}')),
        ("nothing", EMBED, [], Refused(400, "no item")),
    )  # fmt: skip
    for name, path, value, means in items:
        yield Variant(f"JSON: {name}", path, json_of(value), JSON, means)
    for name, document, words in (
        (
            "the model",
            {"input": "red", "model": "words"},
            "belongs in the query, not in the body: ?model=",
        ),
        (
            "a version",
            {"input": "red", "version": 1},
            "belongs in the query, not in the body: ?version=",
        ),
        ("top_k", {"input": "red", "top_k": 1}, "belongs in the query, not in the body: ?top_k="),
        ("inputs", {"inputs": ["red"]}, "did you mean input?"),
        ("Input", {"Input": "red"}, "did you mean input?"),
        ("text", {"text": "red"}, "known: input"),
        ("no key", {}, "no key input"),
        ("a list", ["red"], "must be an object with the key input"),
        ("a string", "red", "must be an object with the key input"),
    ):
        body = json.dumps(document).encode()
        yield Variant(f"JSON: {name}", EMBED, body, JSON, Refused(400, words))
    nulls = {"input": TEXT, "model": None, "anything": None}
    yield Variant("JSON: nulls", EMBED, json.dumps(nulls).encode(), JSON, [TEXT])
    yield Variant("JSON: nothing", EMBED, b"", JSON, Refused(400, "no item"))
    yield Variant("JSON: blanks", EMBED, b" \n", JSON, Refused(400, "the body is empty"))


VARIANTS = [
    *multipart_variants(),
    *filename_variants(),
    *media_type_variants(),
    *url_encoded_variants(),
    *charset_variants(),
    *json_variants(),
]


def vector(text: str) -> list[float]:
    """The share of each word of the vocabulary."""
    words = text.replace("[UNK]", "UNK").split()
    ids = [VOCABULARY.index(word) if word in VOCABULARY else 1 for word in words]
    return [ids.count(number) / len(ids) for number in range(len(VOCABULARY))]


def mistakes(variant: Variant, response: httpx.Response) -> str:
    """What is wrong about an answer; nothing if it is right."""
    document = response.json()
    if isinstance(variant.means, Refused):
        right = response.status_code == variant.means.status
        right &= variant.means.words in document.get("detail", "")
        return "" if right else response.text[:300]
    if response.status_code != 200:
        only = variant.means[0]
        if len(variant.means) == 1 and isinstance(only, Refused):
            return "" if only.words in document["detail"] else response.text[:300]
        return response.text[:300]
    results = document["results"]
    if len(results) != len(variant.means):
        return f"{len(results)} items"
    for result, means in zip(results, variant.means, strict=True):
        if isinstance(means, Refused):
            error = result.get("error", {"status": 200, "detail": ""})
            right = error["status"] == means.status and means.words in error["detail"]
        elif "vector" in result:
            right = result["vector"] == pytest.approx(vector(means))
        else:
            right = result["status"] == "ok" and result["labels"][0]["label"] == means
        if not right:
            return str(result)[:300]
    names = [result.get("filename") for result in results]
    return "" if not variant.filenames or names == list(variant.filenames) else str(names)


@pytest.fixture
async def client(small_models: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(small_models) as client:
        yield client


def test_all_charsets_that_may_be_named_are_there_and_others_are_not_kept() -> None:
    words = "red cat"
    names = {*aliases, *aliases.values(), *(f"iso-8859-{n}" for n in range(20)), "utf-8-sig"}
    known = 0
    for name in sorted(names | {f"cp{n}" for n in range(1245, 1265)}):
        try:
            found = to_utf8(words.encode(codecs.lookup(name).name), name)
            assert found.removeprefix(codecs.BOM_UTF8) == words.encode()
            known += 1
        except (UnknownMediaType, LookupError, TypeError):
            with pytest.raises(UnknownMediaType):
                to_utf8(b"red", name)
    assert known > 100
    before = len(encodings._cache)
    for number in range(100):
        with pytest.raises(UnknownMediaType):
            to_utf8(b"red", f"unknown-{number}")
    assert len(encodings._cache) == before


async def test_every_variant_is_read_as_it_is_meant_or_refused_in_words(
    client: httpx.AsyncClient,
) -> None:
    assert len(VARIANTS) >= 120
    wrong = []
    for variant in VARIANTS:
        headers = {"content-type": variant.content_type} if variant.content_type else {}
        response = await client.post(variant.path, content=variant.body, headers=headers)
        if mistake := mistakes(variant, response):
            wrong.append(f"{variant.path} {variant.name}: {mistake}")
    assert not wrong, f"{len(wrong)} of {len(VARIANTS)}:\n" + "\n".join(wrong)
