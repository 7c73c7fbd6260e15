"""A course: the data and network that a mode trains, and how the model is served."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from service.model.manifest import Preprocessing
from service.model.model import FindEncoder, no_encoder
from service.model.preprocessing.preprocessor import Preprocessor
from training.folder import Content
from training.layouts import Item, Split
from training.loop import Layers, all_alike
from training.material import Part


@dataclass(frozen=True, slots=True)
class Course:
    """What a mode of training prepares."""

    labels: tuple[str, ...]  # in the order of the network's output
    parts: Mapping[Split, Part]  # train, valid and perhaps test; the report shows
    # the mistakes of the last
    network: nn.Module = field(repr=False)  # before training; it returns log-probabilities
    preprocessing: Preprocessing
    preprocessor: Preprocessor
    example: Item  # of the model folder, unless the command names one
    source: str  # origin of the weights, for the manifest
    facts: Mapping[str, str]  # about the network and the preparation, for the card
    limits: tuple[str, ...] = ()  # of the model, for the card
    skipped: int = 0  # items that could not be used
    layers: Callable[[nn.Module], list[Layers]] = all_alike
    files: Mapping[str, Content] = field(default_factory=dict)  # needed by the preprocessing
    find_encoder: FindEncoder = no_encoder
    # With folds, each is left out of one fit: (training, validation), by name. A last fit learns
    # from all training items. The validation part joins those of the folds, in their order.
    folds: Mapping[str, tuple[Part, Part]] = field(default_factory=dict)
    validation: str = "validation split"  # its name in the figures
    disturbed: Mapping[str, Part] = field(default_factory=dict)  # test items, changed; by how
    description: str | None = None  # these three for the manifest, unless the command names them
    credit: str | None = None
    licence: str | None = None

    def name(self, split: Split) -> str:
        """A split's name in the figures."""
        return {"train": "training split", "valid": self.validation, "test": "test split"}[split]


def first_held_out(parts: Mapping[Split, Part]) -> Item:
    """An item that was not trained on."""
    return parts.get("test", parts["valid"]).items[0]
