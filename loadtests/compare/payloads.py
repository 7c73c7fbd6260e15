"""Payloads: the files that are sent, made once and always the same."""

import bisect
import io
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw

SEED = 4
COUNTS = {"photos": 24, "photos12": 6, "short": 64, "mixed": 128, "digits": 32}
ORDINARY_SIZE, ORDINARY_BYTES = (500, 375), 110_000
CAMERA_SIZE, CAMERA_BYTES = (4000, 3000), 3_000_000
GRAIN = 6.0  # standard deviation, in levels of 256: a telephone's, in daylight
QUALITIES = range(30, 97)
SPECIAL_TOKENS = 2  # [CLS] and [SEP]

# Each is one token of MiniLM's vocabulary, so that a text's length is known without it.
WORDS = (
    "the old harbour was quiet before morning and every boat lay still under a pale sky while"
    " children ran along the wall with bread in their hands asking when the next train would leave"
    " for a city where their father worked in the glass house full of plants from warm countries"
    " he wrote long letters about rivers music weather money friends doctors windows gardens"
    " horses winter summer paper stone silver water"
)


def make_payloads(
    folder: Path, works: Iterable[str], photos: Path | None, recording: Path
) -> dict[str, list[Path]]:
    """Work -> its files, made where they are missing.

    Args:
        photos: a folder of photographs; without one, pictures are drawn.
        recording: a spoken digit, of which takes are made.

    Raises:
        FileNotFoundError: there is no photograph in that folder.
    """

    def pictures() -> list[Path]:
        if photos is None:
            return _kept(folder / "drawn/photos", ".jpg", draw_pictures)
        return choose_photos(photos)

    camera = folder / ("drawn" if photos is None else photos.resolve().name) / "photos12"
    make: dict[str, Callable[[], list[Path]]] = {
        "photos": pictures,
        "photos12": lambda: _kept(camera, ".jpg", lambda: enlarge(pictures())),
        "short": lambda: _kept(folder / "short", ".txt", lambda: write_texts(short_lengths())),
        "mixed": lambda: _kept(folder / "mixed", ".txt", lambda: write_texts(mixed_lengths())),
        "digits": lambda: _kept(folder / "digits", ".wav", lambda: vary(recording)),
    }
    return {work: make[work]() for work in works}


def _kept(folder: Path, suffix: str, make: Callable[[], Iterable[bytes]]) -> list[Path]:
    """The files of a folder, which is made as a whole or not at all."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for number, content in enumerate(make()):
            (unfinished / f"{number:03}{suffix}").write_bytes(content)
        unfinished.rename(folder)
    return sorted(folder.iterdir())


def choose_photos(folder: Path) -> list[Path]:
    """Those whose size is nearest to the ordinary one."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")]
    if not found:
        raise FileNotFoundError(f"{folder}: there is no .jpg or .jpeg")
    found.sort(key=lambda path: (abs(path.stat().st_size - ORDINARY_BYTES), path.name))
    return found[: COUNTS["photos"]]


def draw_pictures() -> Iterator[bytes]:
    """Coloured shapes before a soft background, with grain, as JPEG."""
    for number in range(COUNTS["photos"]):
        rng = np.random.default_rng([SEED, number])
        background = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        picture = background.resize(ORDINARY_SIZE, Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(picture)
        for _ in range(12):
            x, y = rng.integers(0, ORDINARY_SIZE)
            width, height = rng.integers(20, 160, 2)
            colour = tuple(int(level) for level in rng.integers(0, 256, 3))
            pen.ellipse((x, y, x + width, y + height), fill=colour)
        yield compress(add_grain(picture, rng), ORDINARY_BYTES)


def enlarge(pictures: Iterable[Path]) -> Iterator[bytes]:
    """As a camera of 12 megapixels would give them: smooth ones would decode twice as fast."""
    rng = np.random.default_rng(SEED)
    for path in list(pictures)[: COUNTS["photos12"]]:
        with Image.open(path) as picture:
            large = picture.convert("RGB").resize(CAMERA_SIZE, Image.Resampling.BICUBIC)
        yield compress(add_grain(large, rng), CAMERA_BYTES)


def add_grain(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The same noise in all three colours of a pixel, another in each pixel."""
    noise = rng.standard_normal((picture.height, picture.width, 1), np.float32) * GRAIN
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def compress(picture: Image.Image, most_bytes: int) -> bytes:
    """As JPEG, of the best quality that is not larger."""

    def encode(quality: int) -> bytes:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return file.getvalue()

    fitting = bisect.bisect_right(QUALITIES, most_bytes, key=lambda quality: len(encode(quality)))
    return encode(QUALITIES[max(0, fitting - 1)])


def short_lengths() -> list[int]:
    """In tokens."""
    rng = random.Random(SEED)
    return [rng.randint(6, 16) for _ in range(COUNTS["short"])]


def mixed_lengths() -> list[int]:
    """From 4 to 256 tokens: as many from 4 to 8 as from 128 to 256, in no order."""
    count = COUNTS["mixed"]
    lengths = [round(4 * 64 ** (number / (count - 1))) for number in range(count)]
    random.Random(SEED).shuffle(lengths)
    return lengths


def write_texts(lengths: Iterable[int]) -> Iterator[bytes]:
    rng = random.Random(SEED)
    for length in lengths:
        yield " ".join(rng.choices(WORDS.split(), k=length - SPECIAL_TOKENS)).encode()


def vary(recording: Path) -> Iterator[bytes]:
    """Takes of one recording: softer or louder, with silence before it, and noise."""
    voice, rate = soundfile.read(recording, dtype="float32")
    for number in range(COUNTS["digits"]):
        rng = np.random.default_rng([SEED, number])
        silence = np.zeros(rng.integers(0, rate // 20), np.float32)
        take = np.concatenate([silence, voice * rng.uniform(0.5, 1.0)])
        noise = rng.standard_normal(len(take), np.float32) * 0.001
        file = io.BytesIO()
        soundfile.write(file, take + noise, rate, "PCM_16", format="WAV")
        yield file.getvalue()
