"""Fit a classifier of pictures."""

import argparse

from training import head

ENCODER = "efficientnet-lite0"
MODES = {"head": head}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m training fit image`."""
    parser.add_argument("--mode", choices=MODES, default="head", help="default: %(default)s")
    head.add_arguments(parser, ENCODER)


def run(args: argparse.Namespace) -> None:
    """Fit, measure, export and write a model folder.

    Raises:
        TrainingError: with a sentence for whoever typed the command.
    """
    MODES[args.mode].run(args, "image")
