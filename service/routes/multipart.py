"""Multipart: the parts of a form (RFC 7578), found in a body that is in memory already.

Starlette's parser spools files to disk in threads, and decodes fields by any codec that the client
names: a megabyte of `punycode` keeps the event loop busy for minutes.
"""

from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from service.errors import BadRequest, TooLarge

MOST_HEAD = 2048  # bytes of one part's headers; 8 KB of semicolons take 5 ms to read


@dataclass(frozen=True, slots=True)
class Part:
    """One file, or one field, of a form."""

    name: str
    content: bytes
    is_file: bool


def read_parts(body: bytes, content_type: str, most: int) -> list[Part]:
    """The parts in order.

    Raises:
        BadRequest: the body is not multipart, or a part has no name.
        TooLarge: there are more than `most`.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadRequest("multipart: the content type names no boundary")
    first = b"--" + boundary
    following = b"\r\n" + first
    parts: list[Part] = []
    start = body.find(first) + len(first)
    while not body.startswith(b"--", start):
        end = body.find(following, start)
        if end < 0 or not body.startswith(b"\r\n", start):
            raise BadRequest("multipart: the body does not begin and end with its boundary")
        if len(parts) == most:
            raise TooLarge(f"the request holds more than {most} parts")
        parts.append(_read_part(body, start, end))
        start = end + len(following)
    return parts


def _read_part(body: bytes, start: int, end: int) -> Part:
    """The part between two boundaries: line end, headers, empty line, content."""
    empty_line = body.find(b"\r\n\r\n", start, min(end, start + MOST_HEAD))
    if empty_line < 0:
        raise BadRequest(f"multipart: a part's headers do not end within {MOST_HEAD} bytes")
    for line in body[start:empty_line].split(b"\r\n"):
        field, _, value = line.partition(b":")
        if field.strip().lower() == b"content-disposition":
            options = parse_options_header(value)[1]
            if b"name" in options:
                name = options[b"name"].decode(errors="replace")
                return Part(name, body[empty_line + 4 : end], b"filename" in options)
    raise BadRequest(
        'multipart: a part has no name; send Content-Disposition: form-data; name="..."'
    )
