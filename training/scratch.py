"""Scratch: train a small convolutional network on images or spectrograms.

python -m training fit image --mode scratch --size 32 --data images/ --name objects
python -m training fit audio --seconds 2 --data clips/ --name birds
"""

import argparse
from pathlib import Path

import torch

from service.limits import InputLimits, core_budget
from service.model.preprocessing import build_preprocessor
from service.model.preprocessing.audio import LogMel
from service.model.preprocessing.image import ImagePreprocessing
from service.model.specs import Kind
from training.augmentation import Augmentation
from training.course import Course, first_held_out
from training.fitting import Recipe, add_network, add_recipe, check_example
from training.flags import add_augmentation, add_hearing, read_augmentation, read_hearing, whole
from training.images import add_variation, read_variation
from training.layouts import check_splits, find_items
from training.loop import Schedule
from training.networks import image, spectrogram
from training.networks.image import PixelNet
from training.networks.spectrogram import SpectrogramNet
from training.samples import decode_items, tell_skipped

RECIPE = Recipe(
    Schedule(
        epochs=40,  # enough from random weights; early stopping may end it sooner
        learning_rate=0.0,  # found by the sweep
        weight_decay=0.05,
        label_smoothing=0.1,
        patience=10,
    ),
    batch=64,
    threads=core_budget(),
)
SIZE = 64  # pixels; a person must still be able to tell the classes apart
SECONDS = 1.0
RATE = 16_000  # Hz, enough for speech, animals and machines
LOG_MEL = LogMel(
    window=512,  # 32 ms: resolves the harmonics of a voice
    hop=160,  # 10 ms: a knock is not much longer
    bands=40,
    low_hz=50.0,
    high_hz=7_600.0,
    floor=1e-8,  # the noise of 16-bit samples; lower levels are silence
)
AUGMENTATION = Augmentation(
    shift=0.15,
    stretch=0.1,
    formants=0.03,
    colour=1.0,
    noise=0.5,
    noise_below_peak=(5.0, 13.0),  # 21 to 56 dB
    mask_bands=0.2,
    mask_frames=0.2,
)


def add_arguments(parser: argparse.ArgumentParser, modality: Kind) -> None:
    """The flags of training from scratch."""
    add_recipe(parser, RECIPE)
    network = image if modality == "image" else spectrogram
    add_network(parser, network.HIDDEN, network.DROPOUT, network.FILTERS)
    if modality == "image":
        parser.add_argument("--size", type=whole(1, 4096), default=SIZE,
            help="pixels per side (default: %(default)s)")  # fmt: skip
        add_variation(parser)
    else:
        add_hearing(parser, SECONDS, RATE, LOG_MEL)
        add_augmentation(parser, AUGMENTATION)


def prepare(args: argparse.Namespace, modality: Kind) -> Course:
    """Read the data and build a network with random weights.

    Raises:
        TrainingError: the command or the data are invalid.
    """
    assert modality in ("image", "audio")
    spec = _see(args.size) if modality == "image" else read_hearing(args, keep="centre")
    preprocessor = build_preprocessor(spec, Path(), InputLimits())
    check_example(args.example, preprocessor.decode)
    data = find_items(args.data, modality)
    check_splits(data, args.share, args.seed)
    decoded = decode_items(data, preprocessor)
    skipped = (*decoded.data.skipped, *decoded.unreadable)
    tell_skipped(skipped)
    classes = len(decoded.data.labels)
    torch.manual_seed(args.seed)
    size = (args.filters, args.hidden, args.dropout)
    network = (
        PixelNet(classes, *size)
        if modality == "image"
        else SpectrogramNet(classes, args.bands, *size)
    )
    parameters = sum(weights.numel() for weights in network.parameters())
    parts = decoded.parts(args.share, args.seed)
    augment = read_variation(args) if modality == "image" else read_augmentation(args)
    return Course(
        labels=decoded.data.labels,
        parts={**parts, "train": parts["train"].augmented(augment)},
        network=network,
        preprocessing=spec,
        preprocessor=preprocessor,
        example=first_held_out(parts),
        source="trained here, from scratch",
        facts={"Network": f"convolutions, {parameters:,} parameters, from scratch"},
        skipped=len(skipped),
    )


def _see(size: int) -> ImagePreprocessing:
    return ImagePreprocessing(modality="image", input="pixels", size=(size, size))
