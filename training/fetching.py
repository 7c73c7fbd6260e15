"""Fetch: a public data set, downloaded, verified and laid out for training.

python -m training fetch flowers-102
"""

import argparse
import shlex
from pathlib import Path

from training.datasets import PUBLIC_DATA, PublicData, fetch
from training.next_steps import spell_python


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m training fetch`."""
    add = parser.add_argument
    add("name", metavar="NAME", choices=PUBLIC_DATA, help=f"of {', '.join(PUBLIC_DATA)}")
    add("--into", metavar="DIR", type=Path, help="a new folder; default: .cache/datasets/NAME")
    add("--cache", type=Path, default=Path(".cache"), help="where downloaded files are kept")


def run(args: argparse.Namespace) -> None:
    """Fetch the data and print their folder and licence.

    Raises:
        DataUnavailable: they cannot be downloaded or written, or are not what they should be.
    """
    data, datasets = PUBLIC_DATA[args.name], args.cache / "datasets"
    folder = args.into or datasets / data.name
    fetch(data, folder, datasets / "downloads" / data.name)
    print(f"{data}\nhash: {_trust(data)}\nlies in: {folder}")
    command = [spell_python(), "-m", "training", "fit", data.modality]
    print(f"next: {shlex.join([*command, '--data', str(folder), '--name', data.name])}")


def _trust(data: PublicData) -> str:
    """How the files were verified."""
    if all(wanted.sha256 for wanted in data.downloads):
        return "every file had the published SHA-256"
    return "none is published; the first download's is kept, and later ones must have the same"
