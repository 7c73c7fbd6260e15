"""Payloads: real files from folders, and the request bodies that carry them."""

import csv
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Modality = Literal["image", "text", "audio"]

MEDIA_TYPES: dict[Modality, dict[str, str]] = {
    "image": {
        **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "image/jpeg"),
        **dict.fromkeys((".tif", ".tiff"), "image/tiff"),
        **{f".{name}": f"image/{name}" for name in ("png", "webp", "gif", "bmp", "avif", "heic")},
    },
    "text": dict.fromkeys((".txt", ".text", ".md", ".csv"), "text/plain"),
    "audio": {
        **dict.fromkeys((".wav", ".wave"), "audio/wav"),
        **dict.fromkeys((".ogg", ".oga", ".opus"), "audio/ogg"),
        **dict.fromkeys((".aif", ".aiff"), "audio/aiff"),
        **{".flac": "audio/flac", ".mp3": "audio/mpeg"},
    },
}
MOST = 500  # of a modality: they are all held in memory

# In words, as long as the comparison's: of the mixed ones as many from 4 to 8 as from 128 to 256.
SHORT = [6 + number % 11 for number in range(64)]
MIXED = [round(4 * 64 ** (number / 127)) for number in range(128)]


@dataclass(frozen=True, slots=True)
class Payload:
    """One file, or one text of a table."""

    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """One request's body, its media type, and what it carries, in order."""

    form: str  # "raw", "multipart", "json"
    content_type: str
    content: bytes
    payloads: Sequence[Payload]


def read_payloads(modality: Modality, files: Iterable[Path]) -> list[Payload]:
    """The payloads of one modality among files; of very many, some from everywhere.

    A `.csv` file is a table whose column `text` holds a text in each row.
    """
    found = [payload for path in sorted(files) for payload in _read(modality, path)]
    return found[:: -(-len(found) // MOST)] if found else []


def cut(texts: Iterable[Payload], lengths: Iterable[int]) -> list[Payload]:
    """Texts of so many words each, one after the other out of the words of all those texts.

    Where the words end, they begin again.
    """
    words = itertools.cycle([word for text in texts for word in text.content.decode().split()])
    return [
        Payload(
            f"text {number} of {length} words",
            "text/plain",
            " ".join(itertools.islice(words, length)).encode(),
        )
        for number, length in enumerate(lengths)
    ]


def raw(payload: Payload) -> Body:
    return Body("raw", payload.media_type, payload.content, [payload])


def multipart(payloads: Sequence[Payload]) -> Body:
    """A form with one file a payload, as `curl -F file=@...` sends it."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{index}"\r\n'
        f"Content-Type: {payload.media_type}\r\n\r\n".encode()
        + payload.content
        + b"\r\n"
        for index, payload in enumerate(payloads)
    ]
    content = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    return Body("multipart", f"multipart/form-data; boundary={boundary}", content, payloads)


def json_texts(payloads: Sequence[Payload]) -> Body:
    texts = [payload.content.decode() for payload in payloads]
    return Body("json", "application/json", json.dumps({"input": texts}).encode(), payloads)


def _read(modality: Modality, path: Path) -> Iterator[Payload]:
    media_type = MEDIA_TYPES[modality].get(path.suffix.lower())
    if media_type is None:
        return
    if path.suffix.lower() != ".csv":
        yield Payload(str(path), media_type, path.read_bytes())
        return
    with path.open(encoding="utf-8", newline="") as table:
        for number, row in enumerate(csv.DictReader(table), start=1):
            if text := row.get("text"):
                yield Payload(f"{path}:{number}", media_type, text.encode())
