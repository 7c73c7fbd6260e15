"""Items: images, texts and audio, from paths, bytes, arrays and strings."""

import mimetypes
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from sensorium_client.arrays import encode_png, encode_wav
from sensorium_client.errors import NotSendable

if TYPE_CHECKING:
    from numpy.typing import NDArray

Modality = Literal["image", "text", "audio"]

# What the service reads: of a folder, files with these suffixes are sent.
SUFFIXES: dict[str, Modality] = {
    **dict.fromkeys(
        (
            *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
            *(".tif", ".tiff", ".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif"),
            *(".ico", ".mpo"),
        ),
        "image",
    ),
    **dict.fromkeys((".txt", ".text", ".md"), "text"),
    **dict.fromkeys(
        (
            *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus"),
            *(".mp3", ".mp2", ".mp1", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
            *(".sph", ".nist"),
        ),
        "audio",
    ),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One image, text or audio file; a path is read when its turn comes."""

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
Source = StrPath | Item  # a path's suffix says whether it is an image, a text or audio


def image(source: "StrPath | bytes | NDArray[Any]") -> Item:
    """An image: a path, a file's bytes, or uint8[height, width(, channels)], sent as PNG.

    Raises:
        NotSendable: the array is not an image.
    """
    if isinstance(source, str | os.PathLike):
        return Item("image", Path(source))
    return Item("image", source if isinstance(source, bytes) else encode_png(source))


def audio(source: "StrPath | bytes | NDArray[Any]", rate: int | None = None) -> Item:
    """Audio: a path, a file's bytes, or a wave of that `rate` (Hz), sent as WAV.

    Raises:
        NotSendable: the array is not a wave, or its rate is missing.
    """
    if isinstance(source, str | os.PathLike):
        return Item("audio", Path(source))
    if isinstance(source, bytes):
        return Item("audio", source)
    if rate is None:
        raise NotSendable("an array has no sample rate of its own; say audio(wave, rate=16000)")
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
        raise NotSendable(f"the text has a lone surrogate at {error.start}") from error


def as_item(source: Source, modality: Modality | None = None) -> Item:
    """The item of a path, by its suffix or as `modality`; an item is returned as it is.

    A file that is named is sent whatever its format: the service says whether it reads it.

    Raises:
        NotSendable: the suffix does not say what the file is, or there is no such file.
    """
    if isinstance(source, Item):
        return source
    path = Path(source)
    found = modality or SUFFIXES.get(path.suffix.lower()) or _guess(path)
    if found is None or path.is_dir():
        raise NotSendable(f"{path}: {_explain(path)}")
    return Item(found, path)


def find_items(
    sources: Source | Iterable[Source], modality: Modality | None = None
) -> Iterator[Item]:
    """The items of paths and folders, in order; of a folder, hidden and unknown files are left out.

    Raises:
        NotSendable: the suffix of a named file does not say what it is, or there is no such file.
    """
    for source in [sources] if isinstance(sources, str | os.PathLike | Item) else sources:
        if not isinstance(source, Item) and Path(source).is_dir():
            yield from _walk(Path(source), modality)
        else:
            yield as_item(source, modality)


def _walk(folder: Path, modality: Modality | None) -> Iterator[Item]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        known = modality or SUFFIXES.get(path.suffix.lower())
        dangling = path.is_symlink() and not path.exists()  # an error of its own, when it is read
        if known and not hidden and (path.is_file() or dangling):
            yield Item(known, path)


def _guess(path: Path) -> Modality | None:
    """What the suffix says of formats that the service may not read, such as .svg or .m4a."""
    media_type, _ = mimetypes.guess_type(path.name)
    for modality in get_args(Modality):
        if media_type and media_type.startswith(f"{modality}/"):
            found: Modality = modality
            return found
    return None


def _explain(path: Path) -> str:
    """Why a path is no item."""
    if path.is_dir():
        return "is a folder; classify_all and embed_all take folders"
    if not path.exists():
        return "there is no such file or folder"
    return (
        "the suffix does not say what it is; name it: image(path), text(path) or audio(path),"
        " in the shell --as image, text or audio"
    )
