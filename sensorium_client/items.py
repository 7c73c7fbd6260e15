"""Items: pictures, texts and recordings, from paths, bytes, arrays and strings."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sensorium_client.arrays import encode_png, encode_wav
from sensorium_client.errors import NotSendable

if TYPE_CHECKING:
    from numpy.typing import NDArray

Modality = Literal["image", "text", "audio"]

SUFFIXES: dict[str, Modality] = {
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"), "image"),
    **dict.fromkeys((".txt",), "text"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"), "audio"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One picture, text or recording; a path is read when its turn comes."""

    modality: Modality
    content: bytes | Path

    @property
    def name(self) -> str:
        """The path as it was given; nothing for what came from memory."""
        return str(self.content) if isinstance(self.content, Path) else ""

    def read(self) -> bytes:
        """The bytes to send.

        Raises:
            NotSendable: the file cannot be read, or is empty.
        """
        if isinstance(self.content, bytes):
            content = self.content
        else:
            try:
                content = self.content.read_bytes()
            except OSError as error:
                raise NotSendable(f"{self.name}: {error.strerror}") from error
        if not content:
            raise NotSendable(f"{self.name or f'the {self.modality}'} is empty")
        return content


StrPath = str | os.PathLike[str]
Source = StrPath | Item  # a path's suffix tells what it is


def image(source: "StrPath | bytes | NDArray[Any]") -> Item:
    """A picture: a path, a file's bytes, or uint8[height, width(, channels)], sent as PNG.

    Raises:
        NotSendable: the array is no picture.
    """
    if isinstance(source, str | os.PathLike):
        return Item("image", Path(source))
    return Item("image", source if isinstance(source, bytes) else encode_png(source))


def audio(source: "StrPath | bytes | NDArray[Any]", rate: int | None = None) -> Item:
    """A recording: a path, a file's bytes, or a wave of that `rate` (Hz), sent as WAV.

    Raises:
        NotSendable: the array is no wave, or its rate is missing.
    """
    if isinstance(source, str | os.PathLike):
        return Item("audio", Path(source))
    if isinstance(source, bytes):
        return Item("audio", source)
    if rate is None:
        raise NotSendable("an array does not tell its rate; say audio(wave, rate=16000)")
    return Item("audio", encode_wav(source, rate))


def text(source: str | bytes | os.PathLike[str]) -> Item:
    """A text: the string itself, UTF-8, or a `Path`.

    Raises:
        NotSendable: the string holds half of a surrogate pair.
    """
    if isinstance(source, os.PathLike):
        return Item("text", Path(source))
    try:
        return Item("text", source.encode() if isinstance(source, str) else source)
    except UnicodeEncodeError as error:
        raise NotSendable(f"the text holds a lone surrogate at {error.start}") from error


def as_item(source: Source, modality: Modality | None = None) -> Item:
    """What a path's suffix tells, or `modality`; an item as it is.

    Raises:
        NotSendable: the suffix does not tell.
    """
    if isinstance(source, Item):
        return source
    path = Path(source)
    found = modality or SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise NotSendable(
            f"{path}: no suffix of a picture, a text or a recording; say which of them it is"
        )
    return Item(found, path)


def find_items(
    sources: Source | Iterable[Source], modality: Modality | None = None
) -> Iterator[Item]:
    """The items of paths and folders, in order; of a folder, what is hidden or unknown is not.

    Raises:
        NotSendable: the suffix of a file that was named does not tell what it is.
    """
    for source in [sources] if isinstance(sources, str | os.PathLike | Item) else sources:
        if not isinstance(source, Item) and Path(source).is_dir():
            yield from _walk(Path(source), modality)
        else:
            yield as_item(source, modality)


def _walk(folder: Path, modality: Modality | None) -> Iterator[Item]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        known = modality or path.suffix.lower() in SUFFIXES
        if known and not hidden and path.is_file():
            yield as_item(path, modality)
