"""Thumbnails: small, upright, and nothing where a file cannot be read."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.conftest import png, tone, wav
from training.layouts import Item
from training.thumbnails import LONGEST, hear, quote, see


def item(folder: Path, content: bytes) -> Item:
    path = folder / "file"
    path.write_bytes(content)
    return Item("a file", path, "label")


def test_a_picture_is_small_and_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (400, 300), "red")
    picture.paste("blue", (0, 0, 200, 300))  # the left half
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise: left becomes top
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif)
    pixels = see(item(tmp_path, file.getvalue()))
    assert pixels is not None
    assert pixels.shape == (128, 128, 3)
    assert pixels[20, 64, 2] > 200
    assert pixels[108, 64, 0] > 200


def test_a_sound_is_as_long_as_it_lasts(tmp_path: Path) -> None:
    spectrogram = hear(item(tmp_path, tone(0.5, seconds=2.0, rate=8_000)))
    assert spectrogram is not None
    assert spectrogram.shape == (64, pytest.approx(201, abs=1))
    assert spectrogram.mean(axis=1).argmax() < 8  # 50 Hz


def test_ten_seconds_of_a_sound_are_enough(tmp_path: Path) -> None:
    spectrogram = hear(item(tmp_path, tone(0.5, seconds=15.0)))
    assert spectrogram is not None
    assert spectrogram.shape[1] == pytest.approx(1_001, abs=1)


def test_silence_can_be_looked_at(tmp_path: Path) -> None:
    spectrogram = hear(item(tmp_path, wav(np.zeros(1_000))))
    assert spectrogram is not None
    assert np.isfinite(spectrogram).all()


def test_a_text_is_shown_in_one_short_line(tmp_path: Path) -> None:
    assert quote(Item("a", "two\nlines", "label")) == "two lines"
    assert quote(Item("a", "word " * 100, "label")) == ("word " * 100)[: LONGEST - 1] + "…"
    assert quote(item(tmp_path, b"in a file")) == "in a file"


def test_what_cannot_be_read_is_not_shown(tmp_path: Path) -> None:
    lost = Item("lost", tmp_path / "lost", "label")
    assert see(lost) is None
    assert hear(lost) is None
    assert quote(lost) == "(cannot be read)"
    assert see(item(tmp_path, b"no picture")) is None
    assert hear(item(tmp_path, png((0, 0, 0)))) is None
