"""Multimodal: a head on the joined vectors of the encoders of several modalities.

python -m training fit multimodal --data table.csv --name products
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Generator

from service.model.preprocessing import MODALITIES
from service.model.preprocessing.vector import VectorPreprocessing
from service.model.specs import Kind, Modality
from training import head
from training.course import Course
from training.errors import BadData
from training.fitting import add_network, add_recipe
from training.flags import real
from training.layouts import Item, check_splits, find_rows
from training.material import Augment, Inputs
from training.networks.classifier import DROPOUT
from training.vectors import Encoded, encode

ABSENT = 0.2  # share of the parts hidden in training, so that the head can answer without them


def add_arguments(parser: argparse.ArgumentParser, modality: Kind) -> None:  # noqa: ARG001
    """The flags of a head on several encoders."""
    add_recipe(parser, head.RECIPE)
    add = parser.add_argument
    for part in MODALITIES:
        add(f"--{part}-encoder", default=head.ENCODERS.get(part), help=f"of the column {part}"
            " (default: %(default)s)")  # fmt: skip
    add_network(parser, head.HIDDEN, DROPOUT)
    add("--absent", type=real(0, 0.99), default=ABSENT,
        help="share of the parts hidden in training (%(default)s)")  # fmt: skip


def prepare(args: argparse.Namespace, modality: Kind) -> Course:  # noqa: ARG001
    """Encode every column and build a classifier of the joined vectors.

    Raises:
        TrainingError: the command or the data are invalid.
    """
    data, rows = find_rows(args.data)
    parts = [rows[item.name] for item in data.items]
    there = [m for m in MODALITIES if any(m in row for row in parts)]
    if len(there) < 2:
        raise BadData(
            f"{args.data} has no column but {there[0]}, for which there is `fit {there[0]}`"
        )
    names = [_encoder(args, modality) for modality in there]
    head.check_encoders(args.models, names)
    check_splits(data, args.share, args.seed)
    head.check_example(args, there[0], names[0])
    encoded = [
        _encode(args, modality, name, parts) for modality, name in zip(there, names, strict=True)
    ]
    course = head.build_course(args, data, parts, encoded)
    assert isinstance(course.preprocessing, VectorPreprocessing)
    hide = hide_parts(course.preprocessing, args.absent)
    held_out = course.parts.get("test", course.parts["valid"]).items
    rows_first = (rows[item.name] for item in (*held_out, *data.items))
    return replace(
        course,
        # The first encoder reads the example.
        example=next(row[there[0]] for row in rows_first if there[0] in row),
        parts={**course.parts, "train": course.parts["train"].augmented(hide)},
    )


def hide_parts(spec: VectorPreprocessing, share: float) -> Augment:
    """An augmentation that hides a share of the parts, but never the last one of an item."""
    ends = np.cumsum([encoder.width + 1 for encoder in spec.encoders])

    def vary(inputs: Inputs, random: Generator) -> Inputs:
        [vectors] = inputs
        there = vectors[:, ends - 1] > 0  # the flag behind each part: bool[n, encoders]
        kept = there & (torch.rand(there.shape, generator=random) >= share)
        kept = torch.where(kept.any(dim=1, keepdim=True), kept, there)
        widths = torch.tensor(np.diff(ends, prepend=0))
        return (vectors * kept.repeat_interleave(widths, dim=1),)

    return vary


def _encoder(args: argparse.Namespace, modality: Modality) -> str:
    name: str | None = getattr(args, f"{modality}_encoder")
    if name is None:
        raise BadData(f"there is no encoder of {modality} files; name one: --{modality}-encoder")
    return name


def _encode(
    args: argparse.Namespace,
    modality: Modality,
    encoder: str,
    parts: Sequence[Mapping[Modality, Item]],
) -> Encoded:
    """The vectors of one column, by row."""
    places = [place for place, row in enumerate(parts) if modality in row]
    items = [parts[place][modality] for place in places]
    encoded = encode(items, args.models, encoder, modality, args.cache / "vectors")
    vectors = {places[number]: vector for number, vector in encoded.vectors.items()}
    return replace(encoded, vectors=vectors)
