"""Payloads: the items of a request, from a raw body, from multipart, or from JSON."""

import base64
import binascii
import json
from typing import Any, cast, get_args

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from service.errors import BadRequest, CallerError, TooLarge, Unreadable
from service.manifest import Kind, Modality
from service.pipeline import Files

Payload = bytes | CallerError  # one bad item is that item's error, not the request's
Given = Files | CallerError

MODALITIES = get_args(Modality)

FORMS = (
    "a raw body, multipart files, or JSON"
    ' {"input": ...} with one item or a list; an item is {"base64": "..."}, or a string for a text'
)


async def read_items(request: Request, kind: Kind, most: int) -> list[Given]:
    """The request's items, in order; a multimodal request is one item of several files.

    Raises:
        BadRequest: the body is of none of the three forms, or empty.
        TooLarge: there are more than `most` items.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multimodal":
        return [await _read_parts(request, media_type)]
    payloads: list[Payload]
    if media_type == "multipart/form-data":
        parts = await _read_multipart(request, most)
        payloads = [_part(field, value, kind) for field, value in parts]
    elif media_type == "application/json":
        payloads = _read_json(await request.body(), kind)
    else:
        payloads = [await request.body()]
    if not payloads or payloads == [b""]:
        raise BadRequest(f"the request holds no item; send {FORMS}")
    if len(payloads) > most:
        raise TooLarge(f"the request holds {len(payloads)} items; at most {most} are taken at once")
    return [p if isinstance(p, CallerError) else {kind: p} for p in payloads]


def parse_json(body: bytes) -> Any:
    """A JSON document.

    Raises:
        BadRequest: it is none.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


def encode_text(text: str) -> bytes:
    """UTF-8 of a text that came in JSON.

    Raises:
        Unreadable: it holds half of a surrogate pair, which no encoding has.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unreadable(f"the text holds a lone surrogate at {error.start}") from error


async def _read_parts(request: Request, media_type: str) -> dict[Modality, bytes]:
    """The parts of one multimodal item, each named by what it is."""
    names = ", ".join(MODALITIES)
    if media_type != "multipart/form-data":
        raise BadRequest(f"send multipart/form-data with parts named of {names}")
    item: dict[Modality, bytes] = {}
    for field, value in await _read_multipart(request, most=len(MODALITIES)):
        if field not in MODALITIES or field in item:
            raise BadRequest(f"part {field}: each part is named once, of {names}", field)
        item[cast(Modality, field)] = _part(field, value, cast(Modality, field))
    if not item:
        raise BadRequest(f"the request holds no part; name them of {names}")
    return item


async def _read_multipart(request: Request, most: int) -> list[tuple[str, bytes | str]]:
    """(name, content) of each part: bytes of a file, text of a field."""
    try:
        async with request.form(max_files=most, max_fields=most) as form:
            return [
                (name, await value.read() if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
    except HTTPException as error:  # Starlette has made one of its own parser's errors
        kind = TooLarge if error.detail.startswith("Too many") else BadRequest
        raise kind(f"multipart: {error.detail}") from error


def _part(field: str, value: bytes | str, modality: Modality) -> bytes:
    if isinstance(value, bytes):
        return value
    if modality == "text":
        return encode_text(value)
    raise BadRequest(
        f"part {field} is not a file (with curl: -F '{field}=@FILE'); parameters go into the query"
    )


def _read_json(body: bytes, modality: Modality) -> list[Payload]:
    document = parse_json(body)
    if not isinstance(document, dict) or set(document) != {"input"}:
        raise BadRequest(f"the JSON body must have one key, input; send {FORMS}", "input")
    given = document["input"]
    values = given if isinstance(given, list) else [given]
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
