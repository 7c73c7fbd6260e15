"""Payloads: the items of a request, from a raw body, from multipart, or from JSON."""

import base64
import binascii
import json
from typing import Any, TypeVar, cast, get_args

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from service.errors import BadRequest, CallerError, TooLarge, Unreadable
from service.manifest import Kind, Modality
from service.pipeline import Files
from service.routes.bodies import read_body
from service.routes.multipart import Part, read_parts
from service.routes.problems import first_error
from service.settings import Settings

Payload = bytes | CallerError  # one bad item is that item's error, not the request's
Given = Files | CallerError
Document = TypeVar("Document", bound=BaseModel)

MODALITIES = get_args(Modality)
PARTS = ", ".join(MODALITIES)

# The interpreter does nothing else while it reads JSON or base64: 64 MiB took 0.2 to 0.9 s.
MOST_JSON_BYTES = 16 * 2**20

# Each may be an object of 64 bytes and more, made of two or three: 20 MB of `[],` became 750 MB in
# 2 s. Prose has as many in 15 MB.
MOST_JSON_MARKS = 250_000

FORMS = (
    "a raw body, multipart files, or JSON"
    ' {"input": ...} with one item or a list; an item is {"base64": "..."}, or a string for a text'
)


async def read_items(request: Request, kind: Kind, settings: Settings) -> list[Given]:
    """The request's items, in order; a multimodal request is one item of several files.

    Raises:
        CallerError: the body is of none of the three forms, or empty, or beyond a limit.
    """
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    most = settings.max_items
    body = await read_body(request, settings)
    if kind == "multimodal":
        if media_type != "multipart/form-data":
            raise BadRequest(f"send multipart/form-data with parts named of {PARTS}")
        return [_join(read_parts(body, content_type, most=len(MODALITIES)))]
    payloads: list[Payload]
    if media_type == "multipart/form-data":
        payloads = [_check_part(part, kind) for part in read_parts(body, content_type, most)]
    elif media_type == "application/json":
        payloads = _read_json(body, kind, most)
    else:
        payloads = [body]
    if not payloads or payloads == [b""]:
        raise BadRequest(f"the request holds no item; send {FORMS}")
    return [p if isinstance(p, CallerError) else {kind: p} for p in payloads]


async def read_document(
    request: Request, shape: type[Document], settings: Settings, *, optional: bool = False
) -> Document:
    """A JSON body of a known shape; one that is optional may be empty.

    Raises:
        CallerError: it is no JSON, or beyond a limit, or has a name that the shape has not.
        RequestValidationError: it is otherwise of another shape.
    """
    body = await read_body(request, settings)
    document = parse_json(body) if body or not optional else {}
    if isinstance(document, dict):  # pydantic would describe each unknown name
        unknown = next((name for name in document if name not in shape.model_fields), None)
        if unknown is not None:
            raise BadRequest(
                f"parameter {unknown[:100]}: there is none of that name", unknown[:100]
            )
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
    bound_json(body, MOST_JSON_MARKS)
    try:
        return json.loads(body)
    except RecursionError:
        raise BadRequest(
            "the JSON body is too deep: input is an item, or a list of items"
        ) from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


def bound_json(body: bytes, most_marks: int, most_values: int | None = None) -> None:
    """Look at JSON before it is parsed: it takes time, and a value far more memory than its bytes.

    Args:
        most_values: of lists, objects and names, where there may be more of other marks.

    Raises:
        TooLarge: it is too long, or holds more values than would fit.
    """
    if len(body) > MOST_JSON_BYTES:
        raise TooLarge(
            f"the JSON has more than {MOST_JSON_BYTES:,} bytes;"
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
        Unreadable: it holds half of a surrogate pair, which no encoding has.
    """
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
        modality = cast(Modality, part.name)
        item[modality] = _check_part(part, modality)
    if not item:
        raise BadRequest(f"the request holds no part; name them of {PARTS}")
    return item


def _check_part(part: Part, modality: Modality) -> bytes:
    """The part's content; a field is a text."""
    if part.is_file or modality == "text":
        return part.content
    raise BadRequest(
        f"part {part.name} is not a file (with curl: -F '{part.name}=@FILE');"
        " parameters go into the query"
    )


def _read_json(body: bytes, modality: Modality, most: int) -> list[Payload]:
    document = parse_json(body)
    if not isinstance(document, dict) or set(document) != {"input"}:
        raise BadRequest(f"the JSON body must have one key, input; send {FORMS}", "input")
    given = document["input"]
    values = given if isinstance(given, list) else [given]
    if len(values) > most:
        raise TooLarge(f"the request holds {len(values)} items; at most {most} are taken at once")
    return [_read_value(value, modality) for value in values]


def _read_value(value: object, modality: Modality) -> Payload:
    try:
        match value:
            case str(text) if modality == "text":
                return encode_text(text)
            case {"base64": str(encoded), **others} if not others:
                return base64.b64decode(encoded, validate=True)
    except Unreadable as error:
        return error
    except (binascii.Error, ValueError) as error:
        return Unreadable(f"not base64: {error}")
    kinds = "a string or " if modality == "text" else ""
    return BadRequest(f'an item of input must be {kinds}{{"base64": "..."}}', "input")
