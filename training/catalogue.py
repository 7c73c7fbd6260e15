"""List: the model folders, their tasks, and whether the service accepts them.

python -m training list
"""

import argparse
import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from service.control.repository import Repository
from service.control.selection import Entry
from service.errors import BadModel
from service.model.manifest import Manifest, read_manifest
from service.settings import Settings

HEADINGS = ("name", "version", "takes", "gives", "size", "figures", "state")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m training list`."""
    parser.add_argument("--models", type=Path, default=Path("models"), help="of model folders")


def run(args: argparse.Namespace) -> None:
    """Load every folder as the service does, and print the table.

    Raises:
        OperatorError: there is no such folder.
    """
    entries = asyncio.run(_load(args.models))
    rows = [HEADINGS, *(describe(entry, args.models) for entry in entries)]
    for line in align(rows):
        print(line)


def describe(entry: Entry, models: Path) -> tuple[str, ...]:
    """One row; for a refused folder, its readable parts."""
    folder = models / entry.name / entry.version
    state = "verified" if entry.state == "ready" else f"refused: {entry.reason}"
    try:
        manifest = read_manifest(folder)
    except (BadModel, OSError):
        return entry.name, entry.version, "-", "-", _size(folder), "-", state
    return (
        entry.name,
        entry.version,
        " + ".join(manifest.modalities),
        ", ".join(manifest.tasks),
        _size(folder),
        _figures(manifest),
        state,
    )


def align(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Lines with columns as wide as their widest cell; the last is left as it is."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)][:-1]
    for *cells, last in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield "  ".join([*padded, last])


async def _load(models: Path) -> list[Entry]:
    repository = Repository(Settings(models=models))
    await repository.open()
    await repository.close()
    return repository.entries()


def _size(folder: Path) -> str:
    """Of all files, in millions of bytes."""
    bytes_ = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{bytes_ / 1e6:.1f} MB"


def _figures(manifest: Manifest) -> str:
    """The figures without their data, which the card names."""
    return ", ".join(f"{figure.metric} {figure.value:.3g}" for figure in manifest.evaluation) or "-"
