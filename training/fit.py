"""Fit: train a model and write its folder. Modality and mode decide what is trained."""

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from service.model.specs import Kind
from training import fitting

# The modules that implement the modes; the first is the default.
MODES: dict[Kind, tuple[str, ...]] = {
    "image": ("head", "finetune", "scratch"),
    "text": ("head", "finetune"),
    "audio": ("scratch", "speakers"),
    "multimodal": ("multimodal",),
}


def main(words: Sequence[str]) -> None:
    """Run `fit` with the words that follow it.

    Raises:
        TrainingError: the command or the data are invalid.
    """
    first = argparse.ArgumentParser("python -m training fit")
    first.add_argument("what", choices=MODES)
    first.add_argument("options", nargs=argparse.REMAINDER, metavar="...")
    chosen = first.parse_args(words)
    what: Kind = chosen.what
    # Each mode has its own flags, so it is parsed first.
    mode = _mode_parser(what).parse_known_args(chosen.options)[0].mode
    parser, module = build_parser(what, mode)
    args = parser.parse_args(chosen.options)
    fitting.run(args, what, module)


def build_parser(what: Kind, mode: str) -> tuple[argparse.ArgumentParser, Any]:
    """The flags of a mode, and its module."""
    module = importlib.import_module(f"training.{mode}")
    parser = argparse.ArgumentParser(
        f"python -m training fit {what}",
        description=module.__doc__,
        parents=[_mode_parser(what)],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser, what)
    return parser, module


def _mode_parser(what: Kind) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"python -m training fit {what}", add_help=False)
    parser.add_argument("--mode", choices=MODES[what], default=MODES[what][0],
        help="default: %(default)s; each has its own --help")  # fmt: skip
    return parser
