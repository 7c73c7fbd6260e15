"""Flags: types that check numbers, names and texts before the work starts."""

import argparse
import math
from collections.abc import Callable
from dataclasses import fields
from math import inf
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from torch import Generator

from service.model.preprocessing.audio import AudioPreprocessing, LogMel
from service.model.specs import Name
from training.augmentation import Augmentation, augment
from training.errors import BadFlag
from training.material import Augment, Inputs

Number = int | float


def whole(least: int, most: float = inf) -> Callable[[str], int]:
    """A flag type: a whole number in this closed range."""
    return lambda text: int(_read(int, "a whole number", text, least, most))


def real(least: float, most: float = inf) -> Callable[[str], float]:
    """A flag type: a number in this closed range."""
    return lambda text: float(_read(float, "a number", text, least, most))


def above(limit: float, below: float = inf) -> Callable[[str], float]:
    """A flag type: a number in this open range."""

    def read(text: str) -> float:
        value = float(_read(float, "a number", text, limit, below))
        if value in (limit, below):
            end = "" if below == inf else f" and below {below:g}"
            raise argparse.ArgumentTypeError(f"{text} must be above {limit:g}{end}")
        return value

    return read


share = real(0, 1)


def read_name(text: str) -> str:
    """A flag type: the name of a model."""
    try:
        return TypeAdapter(Name).validate_python(text)
    except ValidationError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a model's name: lower-case letters, digits and . _ - inside,"
            " 64 characters at most, such as my-leaves"
        ) from None


def read_words(text: str) -> str:
    """A flag type: a text for the manifest and the card."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid UTF-8") from None
    return text


def read_rate(text: str) -> float | str:
    """A flag type: a learning rate, or auto."""
    return text if text == "auto" else above(0)(text)


def add_hearing(parser: argparse.ArgumentParser, seconds: float, rate: int, mel: LogMel) -> None:
    """The flags of a log-mel spectrogram of fixed length."""
    add = parser.add_argument_group("spectrogram").add_argument
    add("--seconds", type=above(0), default=seconds, help="of audio (default: %(default)s)")
    add("--sample-rate", type=whole(1_000, 384_000), default=rate, help="Hz (%(default)s)")
    add("--window", type=whole(2), default=mel.window, help="samples per frame (%(default)s)")
    add("--hop", type=whole(1), default=mel.hop, help="samples between frames (%(default)s)")
    add("--bands", type=whole(8), default=mel.bands, help="of the mel scale (%(default)s)")
    add("--low-hz", type=real(0), default=mel.low_hz, help="lowest frequency (%(default)s)")
    add("--high-hz", type=above(0), default=mel.high_hz, help="highest frequency (%(default)s)")
    add("--floor", type=above(0), default=mel.floor, help="added to the power (%(default)s)")


def read_hearing(args: argparse.Namespace, keep: Literal["start", "centre"]) -> AudioPreprocessing:
    """The preprocessing by the flags of `add_hearing`.

    Raises:
        BadFlag: they contradict each other.
    """
    if args.bands % 8:
        raise BadFlag(f"--bands {args.bands}: a multiple of 8 is needed")
    if not args.low_hz < args.high_hz <= args.sample_rate / 2:
        raise BadFlag("--low-hz must be below --high-hz, and that at most half of --sample-rate")
    return AudioPreprocessing(
        modality="audio",
        input="spectrogram",
        sample_rate=args.sample_rate,
        seconds=args.seconds,
        keep=keep,
        log_mel=LogMel(
            window=args.window,
            hop=args.hop,
            bands=args.bands,
            low_hz=args.low_hz,
            high_hz=args.high_hz,
            floor=args.floor,
        ),
    )


def add_augmentation(parser: argparse.ArgumentParser, augmentation: Augmentation) -> None:
    """The flags of the augmentation of spectrograms; 0 is none."""
    add = parser.add_argument_group("augmentation; 0 is none").add_argument
    for name, help_ in {
        "shift": "share of the duration, in both directions",
        "stretch": "share of the duration",
        "formants": "share of the mel axis",
        "colour": "level added by microphone and room, in ln(power)",
        "noise": "share of the items with added noise",
        "mask_bands": "share of the bands, silenced",
        "mask_frames": "share of the frames, silenced",
    }.items():
        limit = real(0) if name == "colour" else share
        add(f"--{name.replace('_', '-')}", type=limit, default=getattr(augmentation, name),
            help=f"{help_} (%(default)s)")  # fmt: skip
    add("--noise-below-peak", type=real(0), nargs=2, metavar=("LEAST", "MOST"),
        default=list(augmentation.noise_below_peak), help="in ln(power) (%(default)s)")  # fmt: skip


def read_augmentation(args: argparse.Namespace) -> Augment:
    """The augmentation of spectrograms, float32[n, bands, frames], by the flags above."""
    given = {field.name: getattr(args, field.name) for field in fields(Augmentation)}
    limits = Augmentation(**{**given, "noise_below_peak": tuple(args.noise_below_peak)})
    silence = math.log(args.floor)

    def change(inputs: Inputs, random: Generator) -> Inputs:
        [spectrograms] = inputs
        return (augment(spectrograms, limits, silence, random),)

    return change


def _read(kind: type[Number], what: str, text: str, least: float, most: float) -> Number:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
    if not least <= value <= most or value == inf:
        limits = f"from {least:g} to {most:g}" if most < inf else f"{least:g} or more"
        raise argparse.ArgumentTypeError(f"{text} must be {limits}")
    return value
