"""Payloads: the items of a request, from a raw body, from multipart, or from JSON."""

import base64
import binascii
import json
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from service.errors import BadRequest, CallerError, TooLarge, Unreadable
from service.manifest import Modality

Item = bytes | CallerError  # one bad item is that item's error, not the request's

FORMS = (
    "a raw body, multipart files, or JSON"
    ' {"input": ...} with one item or a list; an item is {"base64": "..."}, or a string for a text'
)


async def read_items(request: Request, modality: Modality, most: int) -> list[Item]:
    """The request's items, in order.

    Raises:
        BadRequest: the body is of none of the three forms, or empty.
        TooLarge: there are more than `most` items.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        items = await _read_multipart(request, modality, most)
    elif media_type == "application/json":
        items = _read_json(await request.body(), modality)
    else:
        items = [await request.body()]
    if not items or items == [b""]:
        raise BadRequest(f"the request holds no item; send {FORMS}")
    if len(items) > most:
        raise TooLarge(f"the request holds {len(items)} items; at most {most} are taken at once")
    return items


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


async def _read_multipart(request: Request, modality: Modality, most: int) -> list[Item]:
    items: list[Item] = []
    try:
        async with request.form(max_files=most, max_fields=most) as form:
            for field, value in form.multi_items():
                if isinstance(value, UploadFile):
                    items.append(await value.read())
                elif modality == "text":
                    items.append(encode_text(value))
                else:
                    raise BadRequest(
                        f"part {field} is not a file (with curl: -F '{field}=@FILE');"
                        " parameters go into the query"
                    )
    except HTTPException as error:  # Starlette has made one of its own parser's errors
        kind = TooLarge if error.detail.startswith("Too many") else BadRequest
        raise kind(f"multipart: {error.detail}") from error
    return items


def _read_json(body: bytes, modality: Modality) -> list[Item]:
    document = parse_json(body)
    if not isinstance(document, dict) or set(document) != {"input"}:
        raise BadRequest(f"the JSON body must have one key, input; send {FORMS}", "input")
    given = document["input"]
    values = given if isinstance(given, list) else [given]
    return [_read_value(value, modality) for value in values]


def _read_value(value: object, modality: Modality) -> Item:
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
