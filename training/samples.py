"""Samples: files decoded once, by the preprocessing that serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from service.errors import CallerError
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.types import Sample
from training.layouts import LabelledData, Split, split_items
from training.material import Inputs, Part


@dataclass(frozen=True, slots=True)
class Decoded:
    """The decoded samples in memory; an image of 224 x 224 takes 150 kB."""

    preprocessor: Preprocessor
    data: LabelledData
    samples: Mapping[int, Sample] = field(repr=False)  # by place among all items
    unreadable: tuple[str, ...]  # one sentence per unreadable item

    def parts(self, share: float, seed: int) -> dict[Split, Part]:
        """The splits of the decoded samples.

        Raises:
            BadData: a class has too few items.
        """
        skipped = len(self.data.skipped) + len(self.unreadable)
        places = split_items(self.data, self.samples, share, seed, skipped)
        return {split: self._part(chosen) for split, chosen in places.items()}

    def _part(self, places: Sequence[int]) -> Part:
        samples = [self.samples[place] for place in places]

        def take(chosen: Tensor) -> Inputs:
            feeds = self.preprocessor.collate([samples[number] for number in chosen.tolist()])
            return tuple(torch.from_numpy(array) for array in feeds.values())

        lengths = torch.tensor([sample.cost for sample in samples])
        return Part(
            torch.from_numpy(self.data.numbers(places)),
            take,
            lengths if (lengths != lengths[0]).any() else None,
            tuple(self.data.items[place] for place in places),
        )


def decode_items(data: LabelledData, preprocessor: Preprocessor) -> Decoded:
    """Decode every file; unreadable files are listed and skipped."""
    samples: dict[int, Sample] = {}
    unreadable = []
    for place, item in enumerate(
        tqdm(data.items, desc="read", unit="file", leave=False, disable=None)
    ):
        try:
            samples[place] = preprocessor.decode(item.read())
        except (CallerError, OSError) as error:
            unreadable.append(f"{item.name}: {error}")
    return Decoded(preprocessor, data, samples, tuple(unreadable))


def tell_skipped(sentences: Sequence[str]) -> None:
    """Print the skipped items."""
    for sentence in sentences:
        print(f"skipped: {sentence}")
    if sentences:
        print(f"{len(sentences)} item{'s' * (len(sentences) > 1)} skipped", flush=True)
