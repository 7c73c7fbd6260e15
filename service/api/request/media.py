"""Media types, character sets and base64: the encodings of a body, a part or an item.

Only codecs implemented in C are supported: Python's `punycode` takes minutes for a megabyte.
"""

import binascii
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_LE
from encodings import normalize_encoding
from encodings.aliases import aliases
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from service.errors import TooLarge, UnknownMediaType, Unreadable

MAX_ENCODED_BYTES = 16 * 2**20  # of base64 or quoted-printable, decoded on the event loop

JSON = re.compile(r"(application|text)/(x-)?json|[^/]+/[^/]+\+json")
# Other media types of raw texts; `curl -d` declares a form.
TEXT = re.compile(r"text/.*|(application|binary)/octet-stream|application/x-www-form-urlencoded|")
# An unclosed quote extends to the end of the header: backtracking takes quadratic time.
PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.?)*(?:"|\Z)|[^;]*)', re.DOTALL)
DATA_URI = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)
UTF_16 = re.compile(rb"(?:[^\0]\0){2}|(?:\0[^\0]){2}")  # Latin letters, without a byte order mark
BASE64_URI = re.compile(r"data:[\w.+/-]*(;[\w.+=-]+){0,9};base64,[\w+/=%-]*\s*\Z", re.ASCII)
# Invalid in quoted-printable: a = before neither two hexadecimal digits nor a line end.
NOT_QUOTED = re.compile(rb"=(?![0-9A-Fa-f]{2}|[ \t]*(?:\r?\n|\Z))")
BASE64 = bytes.maketrans(b"-_", b"+/")  # from the URL alphabet to the standard one
CODECS = re.compile(
    r"ascii|latin_1|utf_8|utf_8_sig|utf_(16|32)(_[bl]e)?|iso8859_([1-9]|1[013456])|cp125[0-8]"
    r"|koi8_[ru]|mac_roman|gb2312|gbk|gb18030|big5|shift_jis|cp932|euc_(jp|kr)"
)


class MediaType(NamedTuple):
    """A parsed `Content-Type`: `text/plain` with `charset`, in lower case."""

    name: str
    parameters: dict[str, str]

    @property
    def charset(self) -> str | None:
        return self.parameters.get("charset")


@lru_cache(maxsize=256)  # clients repeat theirs
def read_media_type(header: str) -> MediaType:
    """The media type in a header; its name is empty if the header is."""
    name, semicolon, _ = header.partition(";")
    return MediaType(name.strip().lower()[:100], read_parameters(header) if semicolon else {})


def read_parameters(header: str) -> dict[str, str]:
    """The parameters of a header, by lower-case name, without quotes."""
    found: dict[str, str] = {}
    for name, value in PARAMETER.findall(header):
        if value.startswith('"'):
            value = value[1:].removesuffix('"').replace('\\"', '"').replace("\\\\", "\\")
        found.setdefault(name.lower(), value.strip())
    return found


def to_utf8(content: bytes, charset: str | None) -> bytes:
    """A text in UTF-8, decoded by its byte order mark, else by the declared charset.

    Raises:
        UnknownMediaType: the charset is not supported.
        Unreadable: the text does not fit the charset, or seems to be undeclared UTF-16.
    """
    if content.startswith(BOM_UTF32_LE):
        charset = "utf-32"
    elif content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        charset = "utf-16"
    elif content.startswith(BOM_UTF8):
        charset = None
    codec = _find_codec(charset) if charset else "utf_8"
    if codec in ("ascii", "utf_8"):
        if UTF_16.match(content):
            raise Unreadable(
                "the text seems to be UTF-16; declare it: text/plain; charset=utf-16le"
            )
        return content
    # As browsers do: most texts declared as ISO 8859-1 are Windows-1252, which adds 27 characters.
    codec = "cp1252" if codec in ("latin_1", "iso8859_1") else codec
    try:
        return content.decode(codec).encode()
    except UnicodeError as error:
        raise Unreadable(f"the text is not {codec}: {error.args[-1]}") from error


def _find_codec(charset: str) -> str:
    """Python's name of a charset.

    It uses the alias table, because `codecs.lookup` caches every unknown name forever.

    Raises:
        UnknownMediaType: it is not supported.
    """
    name = normalize_encoding(charset[:40]).lower()
    codec = aliases.get(name, name)
    if not CODECS.fullmatch(codec):
        raise UnknownMediaType(f"charset {charset[:40]} is not supported; send UTF-8")
    return codec


def decode_base64(text: str) -> bytes:
    """The content of base64, in either alphabet, with or without line ends, or of a data URI.

    Raises:
        Unreadable: the text is neither.
        TooLarge: the text is too long.
    """
    if DATA_URI.match(text):
        return decode_data_uri(text)
    return _from_base64(text)


def decode_data_uri(text: str) -> bytes:
    """The content of a data URI (RFC 2397); a text is converted to UTF-8.

    Raises:
        Unreadable: it is not a data URI.
        UnknownMediaType: its charset is not supported.
        TooLarge: it is too long.
    """
    prefix = DATA_URI.match(text)
    if prefix is None:
        raise Unreadable("not a data URI, such as data:image/jpeg;base64,...")
    head, data = prefix[1].rstrip(), text[prefix.end() :]
    is_base64 = head.lower().endswith(";base64")
    if is_base64 and "%" not in data:
        content = _from_base64(data)
    else:
        _bound(data)
        content = unquote_to_bytes(data)
        if is_base64:
            content = _from_base64(content.decode("latin-1"))
    return to_utf8(content, charset) if (charset := read_media_type(head).charset) else content


def decode_transfer(content: bytes, encoding: str) -> bytes:
    """The content of a part, decoded by its `Content-Transfer-Encoding`.

    Raises:
        UnknownMediaType: the encoding is not supported.
        Unreadable: the content does not fit the encoding.
        TooLarge: the content is too long.
    """
    match encoding.strip().lower():
        case "" | "7bit" | "8bit" | "binary":
            return content
        case "base64":
            return _from_base64(content.decode("latin-1"))
        case "quoted-printable":
            _bound(content)
            if wrong := NOT_QUOTED.search(content):
                raise Unreadable(f"not quoted-printable: invalid = at byte {wrong.start()}")
            return binascii.a2b_qp(content)
    raise UnknownMediaType(
        f"Content-Transfer-Encoding {encoding[:40]} is not supported;"
        " send binary, base64 or quoted-printable"
    )


def _from_base64(text: str) -> bytes:
    _bound(text)
    try:
        letters = text.encode("ascii").translate(BASE64, b" \t\r\n")
        if len(letters) % 4:
            raise Unreadable(
                f"not base64: {len(letters)} characters are not a multiple of 4;"
                " it is cut off, or the final = is missing"
            )
        return binascii.a2b_base64(letters, strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Unreadable(f"not base64: {error}") from error


def _bound(encoded: str | bytes) -> None:
    if len(encoded) > MAX_ENCODED_BYTES:
        raise TooLarge(
            f"the encoded content exceeds {MAX_ENCODED_BYTES:,} bytes;"
            " send the file itself, as a raw body or in a multipart form"
        )
