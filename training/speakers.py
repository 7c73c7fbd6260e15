"""Speakers: leave each speaker out of one fit, then train the model on all of them.

python -m training fit audio --mode speakers --data DIR
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.limits import InputLimits, core_budget
from service.model.preprocessing.audio import AudioPreprocessing, AudioPreprocessor, LogMel
from service.model.specs import Kind
from training.augmentation import Augmentation
from training.course import Course
from training.datasets import DIGITS_URL, fetch_digits
from training.disturbance import DISTURBANCES, Disturbance
from training.fitting import Recipe, add_network, add_recipe, check_example
from training.flags import above, add_augmentation, add_hearing, read_augmentation, read_hearing
from training.layouts import Split
from training.loop import Schedule
from training.material import Part, part_of
from training.networks.spectrogram import DROPOUT, FILTERS, HIDDEN, SpectrogramNet
from training.spectrograms import compute_spectrograms
from training.takes import DIGITS, Take, find_takes

NAME = "spoken-digits"
CREDIT = "Free Spoken Digit Dataset (Jakobovski et al., v1.0.10), CC BY-SA 4.0"
LICENCE = "CC BY-SA 4.0"  # that of the data

LOG_MEL = LogMel(
    window=512,  # 32 ms: resolves the harmonics of a voice
    hop=160,  # 10 ms: a plosive is not much longer
    bands=40,
    low_hz=80.0,  # below is hum
    high_hz=3_800.0,  # the data end at 4 kHz; better microphones must give the same input
    floor=1e-8,  # the noise of 16-bit samples; lower levels are silence
)
RATE = 16_000  # Hz: what most speech models take; the data's 8 kHz are resampled to it
SECONDS = 1.0  # 99 % of the takes are shorter
# Seven speeds make seven voices of each speaker; beyond a quarter, words sound unnatural.
OTHER_SPEEDS = (0.8, 0.87, 0.93, 1.07, 1.15, 1.25)
AUGMENTATION = Augmentation(
    shift=0.15,  # users leave silence before a word
    stretch=0.15,
    formants=0.05,
    colour=1.0,
    noise=0.6,
    noise_below_peak=(5.0, 13.0),  # 21 to 56 dB
    mask_bands=0.3,
    mask_frames=0.24,
)
RECIPE = Recipe(
    Schedule(
        epochs=24,  # the best epochs of the folds lie between the 11th and the last
        learning_rate=3e-3,  # the maximum of the cycle
        weight_decay=0.05,
        label_smoothing=0.1,
        patience=8,
    ),
    batch=64,  # about 30 steps per epoch on the digits
    threads=core_budget(),
    sweep=False,
    balance=0.0,  # all words have equally many takes
    share=None,
)


def add_arguments(parser: argparse.ArgumentParser, modality: Kind) -> None:  # noqa: ARG001
    """The flags of the speakers mode."""
    add_recipe(
        parser,
        RECIPE,
        layout="DIR/<class>/<speaker>_<take>.wav (default: download digits)",
        name=NAME,
    )
    add = parser.add_argument
    add("--url", default=DIGITS_URL, help="of the digits")
    add_network(parser, HIDDEN, DROPOUT, FILTERS)
    add_hearing(parser, SECONDS, RATE, LOG_MEL)
    add_augmentation(parser, AUGMENTATION)
    add("--speeds", type=above(0.25, 4), nargs="*", default=list(OTHER_SPEEDS), metavar="FACTOR",
        help="other speeds of each training take (default: %(default)s)")  # fmt: skip


def prepare(args: argparse.Namespace, modality: Kind) -> Course:  # noqa: ARG001
    """Read the recordings, and split them by speaker and by take.

    Raises:
        TrainingError: the command or the data are invalid.
    """
    spec = read_hearing(args, keep="centre")
    preprocessor = AudioPreprocessor(spec, InputLimits())
    check_example(args.example, preprocessor.decode)
    data = find_takes(args.data or fetch_digits(args.cache / "datasets", args.url))
    spectrograms = compute_spectrograms(data, preprocessor, args.speeds)
    augment = read_augmentation(args)
    by_speaker = {speaker: spectrograms.split_by_speaker(speaker) for speaker in data.speakers}
    training, test = spectrograms.split_by_take()
    parts: dict[Split, Part] = {
        "train": spectrograms.part(training, augment),
        "test": spectrograms.part(test),
        "valid": spectrograms.part(np.concatenate([own for _, own in by_speaker.values()])),
    }
    classes = len(data.labels)
    torch.manual_seed(args.seed)
    network = SpectrogramNet(classes, args.bands, args.filters, args.hidden, args.dropout)
    parameters = sum(weights.numel() for weights in network.parameters())
    digits = args.data is None or (args.name == NAME and data.labels == DIGITS)
    return Course(
        labels=data.labels,
        parts=parts,
        network=network,
        preprocessing=spec,
        preprocessor=preprocessor,
        example=parts["test"].items[0],
        source="trained here, from scratch",
        facts={
            "Network": f"convolutions on a log-mel spectrogram, {parameters:,} parameters, from"
            " scratch",
            "Speakers": ", ".join(data.speakers),
        },
        limits=_limits(spec, len(data.speakers)),
        folds={
            f"speaker {speaker}": (spectrograms.part(others, augment), spectrograms.part(own))
            for speaker, (others, own) in by_speaker.items()
        },
        validation="speakers left out of training",
        disturbed=_disturb([take for take in data.takes if take.is_test], preprocessor),
        description=f"Says which of {', '.join(data.labels[:-1])} or {data.labels[-1]} was spoken"
        " in a short recording.",
        credit=CREDIT if digits else None,
        licence=LICENCE if digits else None,
    )


def _disturb(takes: Sequence[Take], preprocessor: AudioPreprocessor) -> dict[str, Part]:
    """The takes after each disturbance."""
    labels = torch.tensor([take.label for take in takes])

    def read(disturb: Disturbance) -> Tensor:
        samples = [preprocessor.decode(disturb(take.path)) for take in takes]
        return torch.from_numpy(preprocessor.collate(samples)[preprocessor.spec.input])

    return {
        f"test split {how}": part_of(read(disturb), labels) for how, disturb in DISTURBANCES.items()
    }


def _limits(spec: AudioPreprocessing, speakers: int) -> tuple[str, ...]:
    """What the model cannot do, for the card."""
    assert spec.log_mel is not None
    return (
        f"It knows {speakers} voices. For other voices, expect the accuracy of speakers left out,"
        " not that of the test split. It is lower for children and unfamiliar accents.",
        f"It expects one word per file, and hears only the middle {spec.seconds:g} s.",
        f"It uses frequencies from {spec.log_mel.low_hz:g} to {spec.log_mel.high_hz:g} Hz. A"
        " microphone with a wider range does not help.",
    )
