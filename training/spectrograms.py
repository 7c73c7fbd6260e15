"""Spectrograms of takes at several speeds, computed once, by the preprocessing that serves."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from tqdm import tqdm

from service.errors import CallerError
from service.model.preprocessing.audio import AudioPreprocessor, fit_length
from training.augmentation import change_speed
from training.errors import BadData
from training.layouts import Item
from training.material import Augment, Inputs, Part, unchanged
from training.takes import Take, Takes

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Spectrograms:
    """All takes of a data set, the test takes included."""

    at_speeds: Tensor  # float32[speeds, takes, bands, frames]; the first is the take's own
    labels: Tensor  # int64[takes]
    speakers: NDArray[np.str_]  # [takes]
    is_test: NDArray[np.bool_]  # [takes]
    items: tuple[Item, ...] = field(repr=False)  # [takes]

    def part(self, takes: Indices, augment: Augment = unchanged) -> Part:
        """Takes at their own speed, float32[n, bands, frames]; for training, at a random one."""
        chosen = torch.from_numpy(takes)

        def take_augmented(places: Tensor, random: Generator) -> Inputs:
            speed = torch.randint(len(self.at_speeds), places.shape, generator=random)
            return augment((self.at_speeds[speed, chosen[places]],), random)

        return Part(
            self.labels[chosen],
            lambda places: (self.at_speeds[0, chosen[places]],),
            items=tuple(self.items[take] for take in takes),
            take_augmented=take_augmented,
        )

    def split_by_speaker(self, speaker: str) -> tuple[Indices, Indices]:
        """The training takes of the other speakers, and those of this one."""
        own = self.speakers == speaker
        return np.flatnonzero(~own & ~self.is_test), np.flatnonzero(own & ~self.is_test)

    def split_by_take(self) -> tuple[Indices, Indices]:
        """All training takes, and the official test split."""
        return np.flatnonzero(~self.is_test), np.flatnonzero(self.is_test)


def compute_spectrograms(
    data: Takes, preprocessor: AudioPreprocessor, other_speeds: Sequence[float]
) -> Spectrograms:
    """Read every take.

    Raises:
        BadData: a take is unreadable, or a split is empty.
    """
    _check_splits(data)
    rows = [
        _at_speeds(preprocessor, take, (1.0, *other_speeds))
        for take in tqdm(data.takes, desc="spectrograms", unit="take", leave=False, disable=None)
    ]
    return Spectrograms(
        at_speeds=torch.from_numpy(np.stack(rows, axis=1)),
        labels=torch.tensor([take.label for take in data.takes]),
        speakers=np.array([take.speaker for take in data.takes]),
        is_test=np.array([take.is_test for take in data.takes]),
        items=tuple(
            Item(f"{take.path.parent.name}/{take.path.name}", take.path, data.labels[take.label])
            for take in data.takes
        ),
    )


def _check_splits(data: Takes) -> None:
    if len(data.speakers) < 2:
        raise BadData("at least two speakers are needed, so that one can be left out")
    if not any(take.is_test for take in data.takes):
        raise BadData("there are no takes 00 to 04, the test split: <speaker>_<take>.wav")
    for speaker in data.speakers:
        if all(take.is_test for take in data.takes if take.speaker == speaker):
            raise BadData(f"speaker {speaker} has no takes from 05 on: <speaker>_<take>.wav")


def _at_speeds(
    preprocessor: AudioPreprocessor, take: Take, speeds: Sequence[float]
) -> NDArray[np.float32]:
    """One take at each speed: float32[speeds, bands, frames]."""
    try:
        wave, _ = preprocessor.waveform(take.path.read_bytes())
    except (CallerError, OSError) as error:
        raise BadData(f"{take.path}: {error}") from error
    rate, samples = preprocessor.spec.sample_rate, preprocessor.spec.samples
    waves = (change_speed(wave, factor, rate) for factor in speeds)
    return np.stack([preprocessor.features(fit_length(wave, samples)) for wave in waves])
