"""Payloads: the items of a request, from a raw body, a form or JSON."""

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

Payload = bytes | CallerError  # a bad item is an error of that item, not of the request
Given = Files | CallerError
Document = TypeVar("Document", bound=BaseModel)

IN_QUERY = ("model", "version", "top_k", "labels")  # of the routes that take items
PARTS = ", ".join(MODALITIES)

# Parsing JSON or base64 stops the event loop: 64 MiB took 0.2 to 0.9 s.
MAX_JSON_BYTES = 16 * 2**20

# Brackets and commas. Each can create an object of 64 bytes or more: 20 MB of `[],` became 750 MB
# in 2 s. 15 MB of prose have this many.
MAX_JSON_MARKS = 250_000

FORM = "application/x-www-form-urlencoded"  # also what `curl -d` declares for any body
FIELD = re.compile(rb"[\w.*%+\[\]-]{1,64}=", re.ASCII)
FILE_FIELD = re.compile(rb"(image|audio|input|file|data)=")
ENCODED = re.compile(rb"(?=[^+%]*(\+|%[0-9A-Fa-f]{2}))[\w.*%+~-]+", re.ASCII)
DISPOSITION = b"content-disposition: form-data"
BLANKS = b" \t\r\n\xef\xbb\xbf"
MISNAMED = "the body is {}, but declared as another type; send it with Content-Type: {}"

FORMS = (
    "a raw body, multipart files, or JSON"
    ' {"input": ...} with one item or a list; an item is {"base64": "..."} or, for a text, a string'
)


@dataclass(frozen=True, slots=True)
class Items:
    """The items of a request, in order."""

    given: list[Given]
    filenames: list[str | None] = field(default_factory=list)  # of a form, else empty

    def filename(self, index: int) -> str | None:
        return self.filenames[index] if self.filenames else None


async def read_items(request: Request, kind: Kind, settings: Settings, deadline: float) -> Items:
    """The items of a request. A multimodal request is one item of several files.

    Args:
        deadline: the deadline of the request on the event loop's clock, in seconds.

    Raises:
        CallerError: the body has an unsupported form, is empty, or exceeds a limit.
    """
    media_type = read_media_type(request.headers.get("content-type", ""))
    body = await read_body(request, settings, deadline)
    most = settings.max_items
    if kind == MULTIMODAL:
        if media_type.name != "multipart/form-data":
            raise UnknownMediaType(f"send multipart/form-data with parts named {PARTS}")
        return Items([_join_multimodal(read_parts(body, media_type, most=len(MODALITIES)))])
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
        raise BadRequest(f"the request has no item; send {FORMS}")
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
    """A JSON body of a known shape. Its content type is ignored, and null counts as absent.

    Args:
        optional: an empty body counts as an empty object.
        in_query: the names of query parameters, which are refused in the body.

    Raises:
        CallerError: the body is not JSON, exceeds a limit, or has an unknown name.
        RequestValidationError: the body does not fit the shape in another way.
    """
    media_type = read_media_type(request.headers.get("content-type", ""))
    deadline = deadline_of(request, settings.timeout_ms)
    body = await read_body(request, settings, deadline)
    if media_type.name.startswith("multipart/"):
        raise UnknownMediaType(f"{media_type.name} is not supported on this route; send JSON")
    document = without_nulls(_parse(body, media_type) if body or not optional else {})
    if isinstance(document, dict):  # pydantic describes every unknown name
        check_names(document, shape.model_fields, in_query)
    try:
        return shape.model_validate(document)
    except ValidationError as error:
        raise RequestValidationError([first_error(error)]) from error


def parse_json(body: bytes) -> Any:
    """A JSON document.

    Raises:
        BadRequest: it is not JSON, or nested too deeply.
        TooLarge: it exceeds a limit.
    """
    bound_json(body, MAX_JSON_MARKS)
    if not body.strip():
        raise BadRequest("the body is empty; send JSON")
    try:
        return json.loads(body)
    except RecursionError:
        raise BadRequest(
            "the JSON body is nested too deeply: input is an item or a list of items"
        ) from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


def _parse(body: bytes, media_type: MediaType) -> Any:
    """The JSON document, decoded by its charset; without one, UTF-8, 16 or 32 are detected."""
    return parse_json(to_utf8(body, media_type.charset) if media_type.charset else body)


def bound_json(body: bytes, most_marks: int, most_values: int | None = None) -> None:
    """Check the size of JSON before it is parsed: parsed values take far more memory than bytes.

    Args:
        most_marks: the limit for brackets and commas.
        most_values: a lower limit for lists, objects and names; None for no such limit.

    Raises:
        TooLarge: the JSON exceeds a limit.
    """
    if len(body) > MAX_JSON_BYTES:
        raise TooLarge(
            f"the JSON exceeds {MAX_JSON_BYTES:,} bytes;"
            " send a raw body, a form, binary data, or several requests"
        )
    if _holds_more(body, most_marks, (b"[", b"{", b",")):
        raise TooLarge(
            f"the JSON has more than {most_marks:,} brackets and commas; send several requests"
        )
    if most_values is not None and _holds_more(body, most_values, (b"[", b"{", b":")):
        raise TooLarge(
            f"the JSON has more than {most_values:,} brackets and colons; send binary data"
        )


def _holds_more(body: bytes, most: int, marks: tuple[bytes, ...]) -> bool:
    return len(body) > most and sum(map(body.count, marks)) > most


def encode_text(text: str) -> bytes:
    """A text from JSON in UTF-8.

    Raises:
        Unreadable: the text is a data URI, or holds a lone surrogate.
    """
    if text.startswith("data:") and BASE64_URI.match(text):
        raise Unreadable(
            "the text is a data URI; send its content as a text, or an image to an image model"
        )
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unreadable(f"the text has a lone surrogate at {error.start}") from error


def _join_multimodal(parts: list[Part]) -> dict[Modality, bytes]:
    item: dict[Modality, bytes] = {}
    for part in parts:
        if part.name not in MODALITIES or part.name in item:
            raise BadRequest(
                f"part {part.name} is unknown or repeated; the names are {PARTS}, each at most"
                " once",
                part.name,
            )
        if part.is_unselected:
            continue
        content = _read_part(part, part.name)
        if isinstance(content, CallerError):
            raise content
        item[part.name] = content
    if not item:
        raise BadRequest(f"the request has no part; name the parts {PARTS}")
    return item


def _read_part(part: Part, modality: Modality, charset: str | None = None) -> Payload:
    """The content of a part, or its error. A field is a text or a data URI.

    Args:
        charset: the default charset of fields.

    Raises:
        BadRequest: the part is not an item.
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
        " parameters belong in the query"
    )


def _read_body(body: bytes, media_type: MediaType, kind: Modality, most: int) -> list[Payload]:
    """The items of a body other than a multipart form: JSON of any content type, or a raw item.

    Raises:
        CallerError: the form is not supported, or does not fit the content type.
    """
    if not body:
        return []
    if media_type.name.startswith("multipart/"):
        raise UnknownMediaType(f"{media_type.name} is not supported; send multipart/form-data")
    if body.startswith(b"--") and DISPOSITION in body[:1024].lower():
        raise UnknownMediaType(MISNAMED.format("a form", "multipart/form-data; boundary=..."))
    is_json = JSON.fullmatch(media_type.name)
    if MODALITIES[kind].is_text and not is_json:
        return _read_text(body, media_type, kind, most)
    if is_json or body[:1] in (b"{", b"["):  # no image or audio file begins with these
        return _read_json(_parse(body, media_type), kind, most)
    if body[:5].lower() == b"data:":
        return [decode_data_uri(body.decode("latin-1"))]
    if FILE_FIELD.match(body):
        raise UnknownMediaType(f"a URL-encoded form cannot hold files; send {FORMS}")
    return [body]


def _read_text(body: bytes, media_type: MediaType, kind: Modality, most: int) -> list[Payload]:
    """The texts of a body that is not declared as JSON: one raw text, or the texts of a form.

    Raises:
        CallerError: the media type is not supported, or does not fit the body.
    """
    if not TEXT.fullmatch(media_type.name):
        raise UnknownMediaType(f"{media_type.name} is not supported for texts; send text/plain")
    body = to_utf8(body, media_type.charset)
    if media_type.name == FORM:
        if FIELD.match(body):
            return _read_fields(body, most)
        if ENCODED.fullmatch(body):
            raise UnknownMediaType(
                "the body is ambiguous: a text or a URL-encoded form;"
                " send a text with Content-Type: text/plain"
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
        encode_text(body.decode("latin-1"))  # refuses a data URI
    return [body]


def _read_fields(body: bytes, most: int) -> list[Payload]:
    """The texts of a URL-encoded form.

    Raises:
        CallerError: it has too many fields, an unknown one, or is not UTF-8.
    """
    try:
        fields = parse_qsl(body.decode(), True, errors="strict", max_num_fields=most)
    except UnicodeDecodeError as error:
        raise Unreadable(f"the form is not UTF-8: {error}") from error
    except ValueError as error:
        raise TooLarge(f"the form has more than {most} fields; send several requests") from error
    for name, _ in fields:
        _check_field(name)
        if name not in ("text", "input"):
            raise BadRequest(
                f"field {name[:100]} of the URL-encoded form is unknown; name the field text,"
                " or send the text itself with Content-Type: text/plain",
                name[:100],
            )
    return [text.encode() for _, text in fields]


def _check_field(name: str) -> None:
    if name in IN_QUERY:  # a parameter, not a text
        raise BadRequest(f"{name} belongs in the query, not in the body: ?{name}=...", name)


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
        raise TooLarge(f"the request has {len(values)} items; the limit is {most}")
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
