"""Fit a head: the vectors of an encoder once, then a small classifier on them, in seconds.

python -m training fit text --data questions.csv --name banking-intents
python -m training fit image --data pictures/ --name objects
"""

import argparse
import shlex
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from service.errors import CallerError
from service.manifest import Modality
from service.model import Model
from training.balance import BalancedBatches
from training.diagnosis import Diagnosis, diagnose
from training.errors import BadData
from training.export import check_parity, export
from training.finder import Sweep, find_learning_rate
from training.folder import choose_version
from training.head_folder import INPUT, OUTPUT, Findings, write_head
from training.layouts import FEWEST, Item, LabelledData, Split, check_counts, find_items, hold_out
from training.loop import Outcome, Schedule, Score, measure, train
from training.networks.classifier import Classifier
from training.scores import Scores, fit_temperature, score
from training.vectors import Encoded, encode

HIDDEN = 512  # nodes: as wide as the vectors are, about
BATCH = 64
LEAST_STEPS = 8  # an epoch, so that a hundred items are not learned in thirty steps
SHARE = 0.1  # of the training items, to choose by where no validation split is given
SEED = 0
BALANCE = 0.5  # the square root: rare classes are heard, common ones still believed
SCHEDULE = Schedule(
    epochs=40,  # some seconds; early stopping ends it sooner
    learning_rate=0.0,  # found by the sweep, unless --lr says otherwise
    weight_decay=0.05,
    label_smoothing=0.1,  # people's labels are sometimes wrong; the temperature undoes the doubt
    patience=8,
)
# The flags that go into the command that makes the model again.
REPRODUCING = (
    "data", "name", "encoder", "example", "example_source", "description", "credit", "licence",
    "lr", "epochs", "patience", "weight_decay", "label_smoothing", "hidden", "batch", "balance",
    "share", "seed",
)  # fmt: skip
PARITY_SIZES = (1, 2, 3, 8, 16)
PARITY_LIMIT = 1e-4


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers of a fit that flags change."""

    schedule: Schedule = SCHEDULE
    hidden: int = HIDDEN
    batch: int = BATCH
    balance: float = BALANCE
    seed: int = SEED


@dataclass(frozen=True, slots=True)
class Part:
    """One split, as vectors."""

    vectors: Tensor  # float32[n, width]
    labels: Tensor  # int64[n]
    items: tuple[Item, ...]


def add_arguments(parser: argparse.ArgumentParser, encoder: str) -> None:
    """The flags of a head; `encoder` is the one that is taken when none is named."""
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a folder of classes, or a table of text,label")
    add("--name", required=True, help="the model's name")
    add("--encoder", default=encoder, help="whose vectors (default: %(default)s)")
    add("--models", type=Path, default=Path("models"), help="the folder of model folders")
    add("--cache", type=Path, default=Path(".cache/vectors"), help="where vectors are kept")
    add("--version", type=int, help="refused if it is there (default: the next free number)")
    add("--replace", action="store_true", help="put it in the place of an older --version")
    add("--example", type=Path, help="the file that travels with the model"
        " (default: the first item held out)")  # fmt: skip
    add("--example-source", default="an item of the data", help="its origin, for the card")
    add("--description", help="what the model says, in one sentence")
    add("--credit", help="the data's title and licence, for the card")
    add("--licence", help="of the model, for the card")
    add("--lr", type=_rate, default="auto", help="learning rate (default: a sweep finds it)")
    add("--epochs", type=int, default=SCHEDULE.epochs)
    add("--patience", type=int, default=SCHEDULE.patience)
    add("--weight-decay", type=float, default=SCHEDULE.weight_decay)
    add("--label-smoothing", type=float, default=SCHEDULE.label_smoothing)
    add("--hidden", type=int, default=HIDDEN, help="nodes of the hidden layer")
    add("--batch", type=int, default=BATCH)
    add("--balance", type=float, default=BALANCE, help="0: classes as they come, 1: all alike")
    add("--share", type=float, default=SHARE, help="held out where there is no validation split")
    add("--seed", type=int, default=SEED)
    add("--threads", type=int, default=1, help="for the head: so small that more do not help")


def run(args: argparse.Namespace, modality: Modality) -> None:
    """Fit, measure, export and write a model folder.

    Raises:
        TrainingError: with a sentence for whoever typed the command.
    """
    began = time.monotonic()
    version = choose_version(args.models / args.name, args.version, replace=args.replace)
    torch.set_num_threads(args.threads)
    data = find_items(args.data, modality)
    items = [item for split in data.splits.values() for item in split]
    encoded = encode(items, args.models, args.encoder, modality, args.cache)
    _check_example(args.example, encoded.encoder)
    skipped = (*data.skipped, *encoded.unreadable)
    _tell(encoded, skipped)
    parts = split_vectors(data, encoded, args.share, args.seed, len(skipped))
    vectors_seconds, began = time.monotonic() - began, time.monotonic()
    sweep, outcome = fit(parts["train"], parts["valid"], _recipe(args), args.lr)
    network = outcome.network
    temperature = calibrate(network, parts["valid"])
    scores: dict[Split, Scores] = {
        split: score(_answer(network, part), part.labels)
        for split, part in parts.items()
        if split != "train"
    }
    for split, found in scores.items():
        print(
            f"{split}: accuracy {found.accuracy:.3f}, macro F1 {found.macro_f1:.3f},"
            f" calibration error {found.calibration_error:.3f}"
        )
    print(_diagnose(network, parts["train"], parts["valid"]))
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch, "model.onnx")
        findings = Findings(
            labels=data.labels,
            counts={split: len(part.items) for split, part in parts.items()},
            skipped=len(skipped),
            scores=scores,
            learning_rate=sweep.chosen if sweep else args.lr,
            temperature=temperature,
            outcome=outcome,
            parity=_export(network, parts["valid"], graph),
            computed=encoded.computed,
            vectors_seconds=vectors_seconds,
            head_seconds=time.monotonic() - began,
            threads=args.threads,
        )
        command = _command(args, modality, version)
        example = _held_out(parts)
        folder = write_head(args, modality, version, encoded, findings, graph, example, command)
    print(
        f"{folder} written: vectors in {vectors_seconds:.0f} s, head in"
        f" {findings.head_seconds:.0f} s; PyTorch and onnxruntime differ by at most"
        f" {findings.parity:.1g}"
    )


def split_vectors(
    data: LabelledData, encoded: Encoded, share: float, seed: int, skipped: int
) -> dict[Split, Part]:
    """The splits of those items that have a vector; a validation split is held out if need be.

    Raises:
        BadData: a class has too few items to train on, or none can be held out.
    """
    items = [item for split in data.splits.values() for item in split]
    places = {id(item): place for place, item in enumerate(items)}
    readable = {
        split: [item for item in found if places[id(item)] in encoded.vectors]
        for split, found in data.splits.items()
    }
    counts = Counter(item.label for item in readable["train"])
    check_counts(data.labels, counts, 1 if readable["valid"] else FEWEST, skipped)
    if not readable["valid"]:
        numbers = np.array([data.labels.index(item.label) for item in readable["train"]])
        held = hold_out(numbers, share, seed)
        training = readable["train"]
        readable["train"] = [i for i, out in zip(training, held, strict=True) if not out]
        readable["valid"] = [i for i, out in zip(training, held, strict=True) if out]
    return {
        split: Part(
            vectors=torch.from_numpy(
                np.stack([encoded.vectors[places[id(item)]] for item in found])
            ),
            labels=torch.tensor([data.labels.index(item.label) for item in found]),
            items=tuple(found),
        )
        for split, found in readable.items()
        if found
    }


def fit(
    training: Part, validation: Part, recipe: Recipe, rate: float | str = "auto"
) -> tuple[Sweep | None, Outcome]:
    """Train a new classifier; the same seed gives the same weights on a CPU.

    Args:
        rate: the learning rate, or "auto" for the sweep's.
    """
    torch.manual_seed(recipe.seed)
    classes = int(training.labels.max()) + 1
    network = Classifier(training.vectors, recipe.hidden, classes)
    size = min(recipe.batch, max(1, len(training.labels) // LEAST_STEPS))

    def batches() -> BalancedBatches:
        return BalancedBatches(training.vectors, training.labels, size, recipe.balance, recipe.seed)

    def validate(candidate: nn.Module) -> Score:
        return measure(candidate, validation.vectors, validation.labels)

    sweep = None
    schedule = recipe.schedule
    if not isinstance(rate, float):
        sweep = find_learning_rate(
            network, batches(), schedule.weight_decay, schedule.label_smoothing
        )
        rate = sweep.chosen
        print(
            f"learning rate {rate:g}: the sweep's loss is least, {min(sweep.losses):.2f},"
            " at four times that"
        )
    schedule = replace(schedule, learning_rate=rate)
    outcome = train(network, batches(), schedule, validate, title="head")
    print(f"best of {len(outcome.epochs)} epochs: {outcome.best}")
    return sweep, outcome


def calibrate(network: nn.Module, validation: Part) -> float:
    """Put the temperature that suits the validation split into the network, and return it."""
    assert isinstance(network, Classifier)
    network.temperature.fill_(1.0)
    temperature = fit_temperature(_answer(network, validation), validation.labels)
    network.temperature.fill_(temperature)
    return temperature


def _diagnose(network: nn.Module, training: Part, validation: Part) -> Diagnosis:
    known, new = (
        measure(network.eval(), part.vectors, part.labels) for part in (training, validation)
    )
    commonest = training.labels.bincount().max().item() / len(training.labels)
    return diagnose(known, new, commonest)


def _answer(network: nn.Module, part: Part) -> Tensor:
    with torch.inference_mode():
        log_probabilities: Tensor = network.eval()(part.vectors)
    return log_probabilities


def _export(network: nn.Module, part: Part, graph: Path) -> float:
    """Write the graph; the greatest difference between it and the network."""
    vectors = part.vectors.numpy()
    export(network, {INPUT: part.vectors[[0, 0]]}, [OUTPUT], {INPUT: {0: "batch"}}, graph)
    # Taken in turn, from the start again where the split is small.
    batches = [{INPUT: vectors.take(range(size), axis=0, mode="wrap")} for size in PARITY_SIZES]
    return check_parity(network, graph, batches, PARITY_LIMIT)


def _held_out(parts: Mapping[Split, Part]) -> Item:
    return parts.get("test", parts["valid"]).items[0]


def _check_example(example: Path | None, encoder: Model) -> None:
    if example is None:
        return
    try:
        encoder.decode(example.read_bytes())
    except (CallerError, OSError) as error:
        raise BadData(f"--example {example}: {error}") from error


def _tell(encoded: Encoded, skipped: tuple[str, ...]) -> None:
    for sentence in skipped:
        print(f"skipped: {sentence}")
    if skipped:
        print(f"{len(skipped)} items skipped")
    count = len(encoded.vectors)
    print(
        f"{count:,} vectors of {encoded.reference.name}, {encoded.computed:,} of them computed now",
        flush=True,
    )


def _recipe(args: argparse.Namespace) -> Recipe:
    schedule = replace(
        SCHEDULE,
        epochs=args.epochs,
        weight_decay=args.weight_decay,
        label_smoothing=args.label_smoothing,
        patience=args.patience,
    )
    return Recipe(schedule, args.hidden, args.batch, args.balance, args.seed)


def _command(args: argparse.Namespace, modality: Modality, version: int) -> str:
    """What trains this model again, with the example that it brings."""
    parser = argparse.ArgumentParser()
    add_arguments(parser, encoder="")  # so that the command names it
    words = ["python", "-m", "training", "fit", modality]
    for name in REPRODUCING:
        value = getattr(args, name)
        if name == "example" and value:
            folder = args.models / args.name / str(version)
            value = folder / f"example{value.suffix.lower()}"
        if value != parser.get_default(name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _rate(text: str) -> float | str:
    return text if text == "auto" else float(text)
