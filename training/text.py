"""Fit a classifier of texts."""

import argparse

from training import head

ENCODER = "all-minilm-l6-v2"
MODES = {"head": head}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m training fit text`."""
    parser.add_argument("--mode", choices=MODES, default="head", help="default: %(default)s")
    head.add_arguments(parser, ENCODER)


def run(args: argparse.Namespace) -> None:
    """Fit, measure, export and write a model folder.

    Raises:
        TrainingError: with a sentence for whoever typed the command.
    """
    MODES[args.mode].run(args, "text")
