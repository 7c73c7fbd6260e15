"""Payloads: the items of a request, from a raw body, from multipart, or from JSON."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from service.api.problems import first_error
from service.api.request.body import read_body
from service.api.request.media import (
    BASE64_URI,
    DATA_URI,
    JSON,
    TEXT,
    MediaType,
    decode_base64,
    decode_data_uri,
    read_media_type,
    to_utf8,
)
from service.api.request.multipart import Part, read_parts
from service.api.request.strict import check_names, without_nulls
from service.api.responses import deadline_of
from service.errors import BadRequest, CallerError, TooLarge, UnknownMediaType, Unreadable
from service.inference.pipeline import Files
from service.model.preprocessing import MODALITIES
from service.model.specs import MULTIMODAL, Kind, Modality
from service.settings import Settings

Payload = bytes | CallerError  # one bad item is that item's error, not the request's
Given = Files | CallerError
Document = TypeVar("Document", bound=BaseModel)

IN_QUERY = ("model", "version", "top_k", "labels")  # of the routes that take items
PARTS = ", ".join(MODALITIES)

# The interpreter does nothing else while it reads JSON or base64: 64 MiB took 0.2 to 0.9 s.
MAX_JSON_BYTES = 16 * 2**20

# Each may be an object of 64 bytes and more, made of two or three: 20 MB of `[],` became 750 MB in
# 2 s. Prose has as many in 15 MB.
MAX_JSON_MARKS = 250_000

FORM = "application/x-www-form-urlencoded"  # and what `curl -d` calls any body
FIELD = re.compile(rb"[\w.*%+\[\]-]{1,64}=", re.ASCII)
FILE_FIELD = re.compile(rb"(image|audio|input|file|data)=")
ENCODED = re.compile(rb"(?=[^+%]*(\+|%[0-9A-Fa-f]{2}))[\w.*%+~-]+", re.ASCII)
DISPOSITION = b"content-disposition: form-data"
BLANKS = b" \t\r\n\xef\xbb\xbf"
MISNAMED = "the body is {}, but not so declared; send it with Content-Type: {}"

FORMS = (
    "a raw body, multipart files, or JSON"
    ' {"input": ...} with one item or a list; an item is {"base64": "..."}, or a string for a text'
)


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a request, in order."""

    given: list[Given]
    filenames: list[str | None] = field(default_factory=list)  # of a form; else none

    def filename(self, index: int) -> str | None:
        return self.filenames[index] if self.filenames else None


async def read_items(request: Request, kind: Kind, settings: Settings, deadline: float) -> Items:
    """The request's items; a multimodal request is one item of several files.

    Args:
        deadline: of the request, on the event loop's clock, in seconds.

    Raises:
        CallerError: the body is of no form that is known here, or empty, or beyond a limit.
    """
    media_type = read_media_type(request.headers.get("content-type", ""))
    body = await read_body(request, settings, deadline)
    most = settings.max_items
    if kind == MULTIMODAL:
        if media_type.name != "multipart/form-data":
            raise UnknownMediaType(f"send multipart/form-data with parts named of {PARTS}")
        return Items([_join(read_parts(body, media_type, most=len(MODALITIES)))])
    payloads: list[Payload]
    filenames: list[str | None] = []
    if media_type.name == "multipart/form-data":
        parts = [part for part in read_parts(body, media_type, most) if not part.is_unselected]
        charset = next((p.content.decode("latin-1") for p in parts if p.name == "_charset_"), None)
        parts = [part for part in parts if part.name != "_charset_"]
        payloads = [_read_part(part, kind, charset) for part in parts]
        filenames = [part.filename or None for part in parts]
    else:
        payloads = _read_body(body, media_type, kind, most)
    if not payloads or payloads == [b""]:
        raise BadRequest(f"the request holds no item; send {FORMS}")
    given: list[Given] = [p if isinstance(p, CallerError) else {kind: p} for p in payloads]
    return Items(given, filenames)


async def read_document(
    request: Request,
    shape: type[Document],
    settings: Settings,
    *,
    optional: bool = False,
    in_query: Collection[str] = (),
) -> Document:
    """A JSON body of a known shape, whatever its content type; null is as if it were not there.

    Args:
        optional: it may be empty.
        in_query: the names of the query's parameters.

    Raises:
        CallerError: it is no JSON, or beyond a limit, or has a name that the shape has not.
        RequestValidationError: it is otherwise of another shape.
    """
    media_type = read_media_type(request.headers.get("content-type", ""))
    deadline = deadline_of(request, settings.timeout_ms)
    body = await read_body(request, settings, deadline)
    if media_type.name.startswith("multipart/"):
        raise UnknownMediaType(f"{media_type.name} is not taken on this route; send JSON")
    document = without_nulls(_parse(body, media_type) if body or not optional else {})
    if isinstance(document, dict):  # pydantic would describe each unknown name
        check_names(document, shape.model_fields, in_query)
    try:
        return shape.model_validate(document)
    except ValidationError as error:
        raise RequestValidationError([first_error(error)]) from error


def parse_json(body: bytes) -> Any:
    """A JSON document.

    Raises:
        BadRequest: it is none, or deeper than any that is taken.
        TooLarge: it holds more values than would fit.
    """
    bound_json(body, MAX_JSON_MARKS)
    if not body.strip():
        raise BadRequest("the body is empty; send JSON")
    try:
        return json.loads(body)
    except RecursionError:
        raise BadRequest(
            "the JSON body is too deep: input is an item, or a list of items"
        ) from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


def _parse(body: bytes, media_type: MediaType) -> Any:
    """As `parse_json`, which finds UTF-8, UTF-16 and UTF-32 by itself; or by the charset."""
    return parse_json(to_utf8(body, media_type.charset) if media_type.charset else body)


def bound_json(body: bytes, most_marks: int, most_values: int | None = None) -> None:
    """Look at JSON before it is parsed: it takes time, and a value far more memory than its bytes.

    Args:
        most_values: of lists, objects and names, where there may be more of other marks.

    Raises:
        TooLarge: it is too long, or holds more values than would fit.
    """
    if len(body) > MAX_JSON_BYTES:
        raise TooLarge(
            f"the JSON has more than {MAX_JSON_BYTES:,} bytes;"
            " send a raw body, a form, binary data, or less at once"
        )
    if _holds_more(body, most_marks, (b"[", b"{", b",")):
        raise TooLarge(
            f"the JSON holds more than {most_marks:,} brackets and commas; send less at once"
        )
    if most_values is not None and _holds_more(body, most_values, (b"[", b"{", b":")):
        raise TooLarge(
            f"the JSON holds more than {most_values:,} brackets and colons; send binary data"
        )


def _holds_more(body: bytes, most: int, marks: tuple[bytes, ...]) -> bool:
    return len(body) > most and sum(map(body.count, marks)) > most


def encode_text(text: str) -> bytes:
    """UTF-8 of a text that came in JSON.

    Raises:
        Unreadable: it is a file, or holds half of a surrogate pair, which no encoding has.
    """
    if text.startswith("data:") and BASE64_URI.match(text):
        raise Unreadable(
            "the text is a data URI; send what it holds as a text, or an image to a model of images"
        )
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unreadable(f"the text holds a lone surrogate at {error.start}") from error


def _join(parts: list[Part]) -> dict[Modality, bytes]:
    """One multimodal item of the parts that are named by what they are."""
    item: dict[Modality, bytes] = {}
    for part in parts:
        if part.name not in MODALITIES or part.name in item:
            raise BadRequest(f"part {part.name}: each part is named once, of {PARTS}", part.name)
        if part.is_unselected:
            continue
        content = _read_part(part, part.name)
        if isinstance(content, CallerError):
            raise content
        item[part.name] = content
    if not item:
        raise BadRequest(f"the request holds no part; name them of {PARTS}")
    return item


def _read_part(part: Part, modality: Modality, charset: str | None = None) -> Payload:
    """The part's content, or why it has none; a field is a text, or a data URI.

    Args:
        charset: of a field that names none.

    Raises:
        BadRequest: it is not an item at all.
    """
    if not part.is_file:
        _check_field(part.name)
    try:
        content = part.decode()
        if MODALITIES[modality].is_text:
            if JSON.fullmatch(part.media_type.name) or not TEXT.fullmatch(part.media_type.name):
                raise UnknownMediaType(
                    f"part {part.name} is {part.media_type.name}; send a text as text/plain"
                )
            return to_utf8(content, part.media_type.charset or (None if part.is_file else charset))
        if not part.is_file and content[:5].lower() == b"data:":
            return decode_data_uri(content.decode("latin-1"))
    except CallerError as error:
        return error
    if part.is_file:
        return content
    raise BadRequest(
        f"part {part.name} is not a file (with curl: -F '{part.name}=@FILE');"
        " parameters go into the query"
    )


def _read_body(body: bytes, media_type: MediaType, kind: Modality, most: int) -> list[Payload]:
    """The items of a body that is no multipart form: JSON, whatever it is called, or a raw item.

    Raises:
        CallerError: it is of a form that is not known here, or has another content type.
    """
    if not body:
        return []
    if media_type.name.startswith("multipart/"):
        raise UnknownMediaType(f"{media_type.name} is not taken; send multipart/form-data")
    if body.startswith(b"--") and DISPOSITION in body[:1024].lower():
        raise UnknownMediaType(MISNAMED.format("a form", "multipart/form-data; boundary=..."))
    is_json = JSON.fullmatch(media_type.name)
    if MODALITIES[kind].is_text and not is_json:
        return _read_text(body, media_type, kind, most)
    if is_json or body[:1] in (b"{", b"["):  # no image and no recording begins with these
        return _read_json(_parse(body, media_type), kind, most)
    if body[:5].lower() == b"data:":
        return [decode_data_uri(body.decode("latin-1"))]
    if FILE_FIELD.match(body):
        raise UnknownMediaType(f"a URL-encoded form holds no files; send {FORMS}")
    return [body]


def _read_text(body: bytes, media_type: MediaType, kind: Modality, most: int) -> list[Payload]:
    """The texts of a body that is not declared as JSON: one, unless it is a form or JSON after all.

    Raises:
        CallerError: as `_read_body`.
    """
    if not TEXT.fullmatch(media_type.name):
        raise UnknownMediaType(f"{media_type.name} is not taken for a text; send text/plain")
    body = to_utf8(body, media_type.charset)
    if media_type.name == FORM:
        if FIELD.match(body):
            return _read_fields(body, most)
        if ENCODED.fullmatch(body):
            raise UnknownMediaType(
                "the body may be URL-encoded, or not; send it with Content-Type: text/plain"
            )
    if body[:64].lstrip(BLANKS)[:1] in (b"{", b"["):
        try:
            document = parse_json(body)
        except BadRequest:  # a text that begins like JSON
            return [body]
        if isinstance(document, dict) and "input" in document:
            return _read_json(document, kind, most)
        raise UnknownMediaType(f"{MISNAMED.format('JSON', 'application/json')}: {FORMS}")
    if body.startswith(b"data:"):
        encode_text(body.decode("latin-1"))  # which refuses a data URI
    return [body]


def _read_fields(body: bytes, most: int) -> list[Payload]:
    """The texts of a URL-encoded form.

    Raises:
        CallerError: it has a field of another name, or too many, or is not UTF-8.
    """
    try:
        fields = parse_qsl(body.decode(), True, errors="strict", max_num_fields=most)
    except UnicodeDecodeError as error:
        raise Unreadable(f"the form is not UTF-8: {error}") from error
    except ValueError as error:
        raise TooLarge(f"the form holds more than {most} fields") from error
    for name, _ in fields:
        _check_field(name)
        if name not in ("text", "input"):
            raise BadRequest(
                f"field {name[:100]} of the URL-encoded form: name a text text;"
                " for a body that is the text itself send Content-Type: text/plain",
                name[:100],
            )
    return [text.encode() for _, text in fields]


def _check_field(name: str) -> None:
    if name in IN_QUERY:  # it would be taken for a text
        raise BadRequest(f"{name} goes into the query, not into the body: ?{name}=...", name)


def _read_json(document: object, modality: Modality, most: int) -> list[Payload]:
    document = without_nulls(document)
    if not isinstance(document, dict):
        raise BadRequest(f"the JSON body must be an object with the key input; send {FORMS}")
    check_names(document, ("input",), IN_QUERY)
    if "input" not in document:
        raise BadRequest(f"the JSON body has no key input; send {FORMS}", "input")
    given = document["input"]
    values = given if isinstance(given, list) else [given]
    if len(values) > most:
        raise TooLarge(f"the request holds {len(values)} items; at most {most} are taken at once")
    return [_read_value(value, modality) for value in values]


def _read_value(value: object, modality: Modality) -> Payload:
    try:
        match value:
            case str(text) if MODALITIES[modality].is_text:
                return encode_text(text)
            case str(uri) if DATA_URI.match(uri):
                return decode_data_uri(uri)
            case {"base64": str(encoded), **others} if not others:
                content = decode_base64(encoded)
                return to_utf8(content, None) if MODALITIES[modality].is_text else content
    except CallerError as error:
        return error
    kinds = "a string" if MODALITIES[modality].is_text else "a data URI"
    return BadRequest(f'an item of input must be {kinds} or {{"base64": "..."}}', "input")
