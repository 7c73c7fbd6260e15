"""A course: what a network is to learn, and how it will be served once it has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from service.model.manifest import Preprocessing
from service.model.model import FindEncoder, no_encoder
from service.model.preprocessing.preprocessor import Preprocessor
from training.folder import Content
from training.layouts import Item, Split
from training.loop import Layers, all_alike
from training.material import Inputs, Part


def unchanged(inputs: Inputs, random: torch.Generator) -> Inputs:  # noqa: ARG001
    return inputs


@dataclass(frozen=True, slots=True)
class Course:
    """What a mode of training prepares."""

    labels: tuple[str, ...]  # in the order of the network's output
    parts: Mapping[Split, Part]  # train and valid, and test where there is one
    network: nn.Module = field(repr=False)  # as it begins; it gives log-probabilities
    preprocessing: Preprocessing
    preprocessor: Preprocessor
    example: Item  # that travels with the model, where the command names none
    source: str  # where the weights come from, for the manifest
    facts: Mapping[str, str]  # for the card: of the network, of the preparation
    limits: tuple[str, ...] = ()  # for the card: what it cannot do
    skipped: int = 0  # items that could not be used
    vary: Callable[[Inputs, torch.Generator], Inputs] = unchanged  # augmentation
    layers: Callable[[nn.Module], list[Layers]] = all_alike
    files: Mapping[str, Content] = field(default_factory=dict)  # that the preprocessing names
    find_encoder: FindEncoder = no_encoder
    items_per_run: int | None = None  # of its graph


def first_held_out(parts: Mapping[Split, Part]) -> Item:
    """An item that nothing was learned from."""
    return parts.get("test", parts["valid"]).items[0]
