"""Multipart: the parts of a form (RFC 2046, RFC 7578), found in a body that is in memory already.

Starlette's parser spools files to disk in threads, and decodes fields by any codec that the client
names. python-multipart's takes no `filename*`, and knows no transfer encodings.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from service.api.request.media import MediaType, decode_transfer, read_media_type, read_parameters
from service.errors import BadRequest, TooLarge

MAX_HEAD = 4096  # bytes of one part's headers
# Lines that begin with the boundary and go on, in a file: more of them, and it was chosen badly.
MAX_LOOKALIKES = 1000

DELIMITER_END = re.compile(rb"(--)?[ \t]*(?:\r\n|\Z)")
FOLD = re.compile(r"\r\n[ \t]+")
NOTHING = MediaType("", {})


@dataclass(frozen=True, slots=True)
class Part:
    """One file, or one field, of a form."""

    name: str
    content: bytes  # as it was sent
    filename: str | None  # of a file; may be empty
    media_type: MediaType = NOTHING
    transfer_encoding: str = ""

    @property
    def is_file(self) -> bool:
        return self.filename is not None

    @property
    def is_unselected(self) -> bool:
        """Whether it is what a browser sends for a file that nobody chose."""
        return self.filename == "" and not self.content

    def decode(self) -> bytes:
        """The content without its transfer encoding.

        Raises:
            CallerError: it cannot be decoded.
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
            "multipart: the content type names no boundary; leave the header to the HTTP client,"
            " which knows the boundary"
        )
    parts: list[Part] = []
    start: int | None = None
    for begin, end, is_last in _delimiters(body, boundary):
        if start is not None:
            if len(parts) == most:
                raise TooLarge(f"the request holds more than {most} parts")
            parts.append(_read_part(body, start, begin))
        if is_last:
            return parts
        start = end
    if b"--" + boundary + b"\n" in body[: len(boundary) + MAX_HEAD]:
        raise BadRequest("multipart: lines must end in CR LF, not in LF alone")
    raise BadRequest("multipart: the body does not begin and end with its boundary")


def _delimiters(body: bytes, boundary: bytes) -> Iterator[tuple[int, int, bool]]:
    """Where each delimiter begins and ends, with its line end; whether it closes the form."""
    mark = b"\r\n--" + boundary
    at = -2 if body.startswith(mark[2:]) else body.find(mark)
    lookalikes = 0
    while at != -1:
        after = at + len(mark)
        if tail := DELIMITER_END.match(body, after):
            yield at, tail.end(), tail[1] is not None
        elif (lookalikes := lookalikes + 1) > MAX_LOOKALIKES:
            raise BadRequest("multipart: choose a boundary that no line of a file begins with")
        at = body.find(mark, after)


def _read_part(body: bytes, start: int, end: int) -> Part:
    """The part between two delimiters: headers, empty line, content."""
    # A part without headers begins with the empty line.
    empty_line = body.find(b"\r\n\r\n", start - 2, min(end, start + MAX_HEAD))
    if empty_line < 0:
        raise BadRequest(f"multipart: a part's headers do not end within {MAX_HEAD} bytes")
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
    """The file's name; of the two forms the one for any alphabet (RFC 5987) goes first."""
    if extended := disposition.get("filename*"):
        charset, _, quoted = extended.partition("'")
        encoding = "latin-1" if charset.lower() == "iso-8859-1" else "utf-8"
        return unquote(quoted.partition("'")[2], encoding)
    return disposition.get("filename")
