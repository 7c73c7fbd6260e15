"""Multipart: the parts of a form (RFC 2046, RFC 7578), parsed from a body in memory.

Starlette's parser spools files to disk in threads, and decodes fields with any codec that the
client names. python-multipart supports neither `filename*` nor transfer encodings.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from service.api.request.media import MediaType, decode_transfer, read_media_type, read_parameters
from service.errors import BadRequest, TooLarge

MAX_HEAD = 4096  # bytes of one part's headers
MAX_LOOKALIKES = 1000  # longer lines that begin with the boundary; a good boundary has none

DELIMITER_END = re.compile(rb"(--)?[ \t]*(?:\r\n|\Z)")
FOLD = re.compile(r"\r\n[ \t]+")
NOTHING = MediaType("", {})


@dataclass(frozen=True, slots=True)
class Part:
    """A file or a field of a form."""

    name: str
    content: bytes  # still in its transfer encoding
    filename: str | None  # of a file, possibly empty; None for a field
    media_type: MediaType = NOTHING
    transfer_encoding: str = ""

    @property
    def is_file(self) -> bool:
        return self.filename is not None

    @property
    def is_unselected(self) -> bool:
        """Whether the part is a browser's file input without a chosen file."""
        return self.filename == "" and not self.content

    def decode(self) -> bytes:
        """The content without its transfer encoding.

        Raises:
            CallerError: the content cannot be decoded.
        """
        return decode_transfer(self.content, self.transfer_encoding)


def read_parts(body: bytes, media_type: MediaType, most: int) -> list[Part]:
    """The parts in order.

    Raises:
        BadRequest: the body is not multipart, or a part has no name.
        TooLarge: there are more than `most`.
    """
    boundary = media_type.parameters.get("boundary", "").encode("latin-1", "replace")
    if not boundary:
        raise BadRequest(
            "multipart: the Content-Type has no boundary; let the HTTP client set this header,"
            " because it knows the boundary"
        )
    parts: list[Part] = []
    start: int | None = None
    for begin, end, is_last in _delimiters(body, boundary):
        if start is not None:
            if len(parts) == most:
                raise TooLarge(f"the request has more than {most} parts; send several requests")
            parts.append(_parse_part(body, start, begin))
        if is_last:
            return parts
        start = end
    if b"--" + boundary + b"\n" in body[: len(boundary) + MAX_HEAD]:
        raise BadRequest("multipart: lines must end with CR LF, not with LF alone")
    raise BadRequest("multipart: the body must begin and end with its boundary")


def _delimiters(body: bytes, boundary: bytes) -> Iterator[tuple[int, int, bool]]:
    """Start and end of each delimiter with its line end, and whether it closes the form."""
    mark = b"\r\n--" + boundary
    at = -2 if body.startswith(mark[2:]) else body.find(mark)
    lookalikes = 0
    while at != -1:
        after = at + len(mark)
        if tail := DELIMITER_END.match(body, after):
            yield at, tail.end(), tail[1] is not None
        elif (lookalikes := lookalikes + 1) > MAX_LOOKALIKES:
            raise BadRequest("multipart: choose a boundary that does not occur in the files")
        at = body.find(mark, after)


def _parse_part(body: bytes, start: int, end: int) -> Part:
    # A part without headers begins with the empty line.
    empty_line = body.find(b"\r\n\r\n", start - 2, min(end, start + MAX_HEAD))
    if empty_line < 0:
        raise BadRequest(f"multipart: the headers of a part exceed {MAX_HEAD} bytes")
    head = FOLD.sub(" ", body[start : max(start, empty_line)].decode(errors="replace"))
    headers: dict[str, str] = {}
    for line in head.split("\r\n"):
        field, _, value = line.partition(":")
        headers.setdefault(field.strip().lower(), value.strip())
    disposition = read_parameters(headers.get("content-disposition", ""))
    if "name" not in disposition:
        raise BadRequest(
            'multipart: a part has no name; send Content-Disposition: form-data; name="..."'
        )
    return Part(
        disposition["name"],
        body[empty_line + 4 : end],
        _filename(disposition),
        read_media_type(headers.get("content-type", "")),
        headers.get("content-transfer-encoding", ""),
    )


def _filename(disposition: dict[str, str]) -> str | None:
    """The file name. The form for all alphabets (RFC 5987) goes before the plain one."""
    if extended := disposition.get("filename*"):
        charset, _, quoted = extended.partition("'")
        encoding = "latin-1" if charset.lower() == "iso-8859-1" else "utf-8"
        return unquote(quoted.partition("'")[2], encoding)
    return disposition.get("filename")
