"""Head: a small classifier on the vectors of an encoder, trained in seconds.

python -m training fit text --data questions.csv --name banking-intents
python -m training fit image --data images/ --name objects
python -m training fit image --data images/ --name objects \
    --encoder efficientnet-lite0 efficientnet-lite2
"""

import argparse
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from service.model.preprocessing.vector import VectorPreprocessing, VectorPreprocessor
from service.model.specs import Kind, Modality
from training.course import Course, first_held_out
from training.errors import BadData, BadFlag
from training.fitting import Recipe, add_network, add_recipe
from training.layouts import Item, LabelledData, check_splits, find_items, split_items
from training.loop import Schedule
from training.material import Part, part_of
from training.networks.classifier import DROPOUT, Classifier
from training.samples import tell_skipped
from training.vectors import Encoded, EncoderUnavailable, encode

RECIPE = Recipe(
    Schedule(
        epochs=40,  # takes seconds; early stopping may end it sooner
        learning_rate=0.0,  # found by the sweep
        weight_decay=0.05,
        label_smoothing=0.1,  # labels may be wrong; the temperature corrects the confidence
        patience=8,
    ),
    batch=64,
    threads=1,  # more threads do not help so small a network
)
HIDDEN = 512  # nodes, about as many as a vector has numbers
ENCODERS = {"image": "efficientnet-lite0", "text": "all-minilm-l6-v2"}
INPUT = "vector"


def describe(dropout: float) -> str:
    """The network in words, for the card."""
    return f"Linear, ReLU, Dropout({dropout:g}), Linear, LogSoftmax"


def add_arguments(parser: argparse.ArgumentParser, modality: Kind) -> None:
    """The flags of a head."""
    add_recipe(parser, RECIPE)
    add = parser.add_argument
    add("--encoder", nargs="+", default=[ENCODERS[modality]], metavar="NAME",
        help="one or several, whose vectors are joined (default: %(default)s)")  # fmt: skip
    add_network(parser, HIDDEN, DROPOUT)
    if modality == "image":
        add("--mirror", action=argparse.BooleanOptionalAction, default=True,
            help="train on each image and its mirror image")  # fmt: skip


def prepare(args: argparse.Namespace, modality: Kind) -> Course:
    """Encode the data, and build a classifier of vectors.

    Raises:
        TrainingError: the command or the data are invalid.
    """
    assert modality != "multimodal"
    data, cache = find_items(args.data, modality), args.cache / "vectors"
    check_splits(data, args.share, args.seed)
    check_encoders(args.models, args.encoder)
    check_example(args, modality, args.encoder[0])
    encoded = [encode(data.items, args.models, name, modality, cache) for name in args.encoder]
    course = build_course(args, data, [{modality}] * len(data.items), encoded)
    if modality != "image" or not args.mirror:
        return course
    known = course.parts["train"]
    mirrored = [
        encode(known.items, args.models, name, modality, cache, mirrored=True)
        for name in args.encoder
    ]
    return replace(
        course,
        parts={**course.parts, "train": _add(known, course, mirrored)},
        facts={**course.facts, "Augmentation": "each training image also mirrored"},
    )


def check_encoders(models: Path, names: Sequence[str]) -> None:
    """Check before the work starts that the encoders exist.

    Raises:
        EncoderUnavailable: an encoder is not in the models folder.
        BadFlag: an encoder is named twice.
    """
    for name in names:
        if not (models / name).is_dir():
            raise EncoderUnavailable(
                f"there is no model {name} in {models}; `python -m training import` adds encoders"
            )
        if names.count(name) > 1:
            raise BadFlag(f"{name} is named twice; name each encoder once")


def check_example(args: argparse.Namespace, modality: Modality, encoder: str) -> None:
    """Check before the work starts that the encoder can read the example.

    Raises:
        BadData: it cannot.
    """
    if args.example:
        item = Item(str(args.example), args.example, "")
        for sentence in encode(
            [item], args.models, encoder, modality, args.cache / "vectors"
        ).unreadable:
            raise BadData(f"--example {sentence}")


def _add(known: Part, course: Course, encoded: Sequence[Encoded]) -> Part:
    """The part with more samples of the same items."""
    assert isinstance(course.preprocessor, VectorPreprocessor)
    [vectors] = known.take(torch.arange(len(known)))
    joined = course.preprocessor.join
    more = [
        joined([one.vectors[place] for one in encoded]).data for place in range(len(known.items))
    ]
    return part_of(
        torch.cat([vectors, torch.from_numpy(np.stack(more))]),
        known.labels.repeat(2),
        known.items,
    )


def build_course(
    args: argparse.Namespace,
    data: LabelledData,
    brought: Sequence[Collection[Modality]],
    encoded: Sequence[Encoded],
) -> Course:
    """The course of a classifier on the vectors of one or several encoders.

    Args:
        brought: the modalities of each item.
        encoded: the vectors of each encoder, by the places of the items.
    """
    references = tuple(one.reference for one in encoded)
    preprocessor = VectorPreprocessor(
        VectorPreprocessing(modality="vector", input=INPUT, encoders=references)
    )
    vectors = {
        place: preprocessor.join([one.vectors.get(place) for one in encoded]).data
        for place, parts in enumerate(brought)
        if all(place in one.vectors for one in encoded if one.reference.modality in parts)
    }
    unreadable = dict.fromkeys(sentence for one in encoded for sentence in one.unreadable)
    skipped = (*data.skipped, *unreadable)
    tell_skipped(skipped)
    for one in encoded:
        print(
            f"{len(one.vectors):,} vectors of {one.reference.name}, {one.computed:,} of them"
            " computed now",
            flush=True,
        )
    places = split_items(data, vectors, args.share, args.seed, len(skipped))
    parts = {
        split: part_of(
            torch.from_numpy(np.stack([vectors[place] for place in chosen])),
            torch.from_numpy(data.numbers(chosen)),
            tuple(data.items[place] for place in chosen),
        )
        for split, chosen in places.items()
    }
    models = {one.reference: one.encoder for one in encoded}
    names = " and ".join(reference.name for reference in references)
    torch.manual_seed(args.seed)
    [inputs] = parts["train"].take(torch.arange(len(parts["train"])))
    return Course(
        labels=data.labels,
        parts=parts,
        network=Classifier(inputs, args.hidden, len(data.labels), args.dropout),
        preprocessing=preprocessor.spec,
        preprocessor=preprocessor,
        example=first_held_out(parts),
        source=f"trained here, on vectors of {names}",
        facts={
            "Network": f"{describe(args.dropout)} on the vectors of {names}, which must be served"
            " with it",
            "Vectors": f"{sum(one.computed for one in encoded):,} computed, the others reused from"
            " earlier runs",
        },
        limits=("It has the limits of its encoder: see that model's card.",),
        skipped=len(skipped),
        find_encoder=models.__getitem__,
    )
