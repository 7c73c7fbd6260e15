"""Takes: audio files in one folder per class, named by speaker and take.

DIR/<class>/<speaker>_<take>.wav
"""

import re
from dataclasses import dataclass
from pathlib import Path

from training.errors import BadData
from training.layouts import check_labels

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SUFFIXES = "wav|flac|ogg|oga|opus|mp3|aiff?|au|caf|w64|sph"
FILE_NAME = re.compile(rf"(?P<speaker>.+)_(?P<take>\d+)\.({SUFFIXES})", re.IGNORECASE)
TEST_TAKES = range(5)  # the official test split of the digits


@dataclass(frozen=True, slots=True)
class Take:
    """One audio file with its label and speaker."""

    path: Path
    label: int
    speaker: str
    take: int

    @property
    def is_test(self) -> bool:
        """Whether it belongs to the test split."""
        return self.take in TEST_TAKES


@dataclass(frozen=True, slots=True)
class Takes:
    """A data set: the labels in the order of the model's output, and the takes."""

    labels: tuple[str, ...]
    takes: tuple[Take, ...]

    @property
    def speakers(self) -> tuple[str, ...]:
        return tuple(sorted({take.speaker for take in self.takes}))


def find_takes(folder: Path) -> Takes:
    """The takes in `folder`/<class>/<speaker>_<take>.wav; digits are sorted by value.

    Raises:
        BadData: the layout is different, or a class is empty.
    """
    layout = f"{folder}/<class>/<speaker>_<take>.wav"
    if not folder.is_dir():
        raise BadData(f"there is no folder {folder}; --data wants {layout}")
    names = sorted((path.name for path in folder.iterdir() if _is_class(path)), key=_spoken_order)
    if len(names) < 2:
        raise BadData(f"{folder} holds {len(names)} classes, two are needed: {layout}")
    check_labels(names)
    takes: list[Take] = []
    for label, name in enumerate(names):
        found = [_take(path, label) for path in sorted((folder / name).iterdir())]
        if not found:
            raise BadData(f"class {name} has no recordings: {folder / name} is empty")
        takes += found
    return Takes(tuple(names), tuple(takes))


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _spoken_order(name: str) -> tuple[int, str]:
    return (DIGITS.index(name) if name in DIGITS else len(DIGITS)), name


def _take(path: Path, label: int) -> Take:
    match = FILE_NAME.fullmatch(path.name)
    if match is None:
        raise BadData(f"{path} is not named <speaker>_<take>.wav")
    return Take(path, label, match["speaker"], int(match["take"]))
