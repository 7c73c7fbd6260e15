"""Fitting: the stages that all modes share. A mode describes its training by a `Course`.

The stages: learning rate, optimisation, temperature, scores, diagnosis, export, folder.
"""

import argparse
import copy
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from service.errors import CallerError
from service.model.specs import Kind
from training.checkpoint import Checkpoint, Run
from training.course import Course
from training.diagnosis import diagnose
from training.errors import BadData, BadFlag
from training.export import check_parity, export
from training.finder import Sweep, find_learning_rate
from training.flags import above, read_name, read_rate, read_words, real, share, whole
from training.folder import check_writable, choose_version, name_example
from training.importing import dynamic_axes
from training.layouts import Item, Split
from training.loop import Outcome, Schedule, Score, answer, compare, measure, train
from training.material import Batches, Part
from training.next_steps import tell_next
from training.release import OUTPUT, PARITY_SIZES, Findings, draft_manifest, release
from training.scores import divide_scores, fit_temperature, score

MIN_STEPS = 8  # per epoch, so that small data sets get enough steps
PARITY_LIMIT = 1e-4  # largest difference of a probability
# Flags that do not affect the model.
PLACES = ("url", "models", "cache", "version", "replace", "resume", "threads")
# Flags that do not affect the weights: an interrupted run may be resumed with other values.
WORDS = ("name", "description", "credit", "licence", "example", "example_source")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers of a mode; each has a flag."""

    schedule: Schedule
    batch: int
    threads: int
    sweep: bool = True  # find the learning rate; otherwise use the schedule's
    balance: float = 0.5  # between drawing every item once and all classes equally often
    # Of the training items, held out where there is no validation split. None: the mode splits.
    share: float | None = 0.1
    seed: int = 0


class Mode(Protocol):
    """A module that describes one way to train."""

    def add_arguments(self, parser: argparse.ArgumentParser, modality: Kind) -> None:
        """Add the flags of `add_recipe` and those of this mode."""

    def prepare(self, args: argparse.Namespace, modality: Kind) -> Course:
        """Read the data and build the network.

        Raises:
            TrainingError: the command or the data are invalid.
        """


def add_recipe(
    parser: argparse.ArgumentParser,
    recipe: Recipe,
    *,
    layout: str = "a folder of classes, or a table of text,label",
    name: str | None = None,
) -> None:
    """The flags that all modes have.

    Args:
        layout: of the data, for the help text.
        name: the default name of a mode that has default data; other modes require both flags.
    """
    schedule, add, required = recipe.schedule, parser.add_argument, name is None
    add("--data", type=Path, required=required, help=layout)
    add("--name", type=read_name, required=required, default=name,
        help="the model's name" + ("" if required else " (default: %(default)s)"))  # fmt: skip
    add("--models", type=Path, default=Path("models"), help="the folder of model folders")
    add("--cache", type=Path, default=Path(".cache"), help="for vectors, checkpoints and downloads")
    add("--version", type=whole(1), help="must not exist (default: the next free number)")
    add("--replace", action="store_true", help="replace the folder of --version")
    add("--resume", action="store_true", help="continue an interrupted run")
    add("--example", type=Path, help="the model's example"
        " (default: the first held-out item)")  # fmt: skip
    add("--example-source", type=read_words, default="an item of the data",
        help="its origin, for the card")  # fmt: skip
    add("--description", type=read_words, help="of the model, in one sentence")
    add("--credit", type=read_words, help="title and licence of the data, for the card")
    add("--licence", type=read_words, help="licence of the model, for the card")
    add("--lr", type=read_rate, default="auto" if recipe.sweep else schedule.learning_rate,
        help="auto: found by a sweep (default: %(default)s)")  # fmt: skip
    add_schedule(parser, schedule)
    add("--batch", type=whole(1), default=recipe.batch, help="items per step (%(default)s)")
    add("--balance", type=share, default=recipe.balance,
        help="0 draws items as they are, 1 all classes equally often (%(default)s)")  # fmt: skip
    if recipe.share is not None:
        add("--share", type=above(0, 1), default=recipe.share,
            help="of items, for validation if none is given (%(default)s)")  # fmt: skip
    add("--seed", type=whole(0), default=recipe.seed)
    add(
        "--threads",
        type=whole(1),
        default=recipe.threads,
        help="CPU threads (default: %(default)s)",
    )


def add_schedule(parser: argparse.ArgumentParser, schedule: Schedule) -> None:
    """The flags of the optimisation."""
    add = parser.add_argument
    add("--epochs", type=whole(1), default=schedule.epochs, help="maximum (%(default)s)")
    add("--patience", type=whole(1), default=schedule.patience,
        help="epochs without a better validation loss before it stops (%(default)s)")  # fmt: skip
    add("--warm-up", type=above(0, 1), default=schedule.warm_up,
        help="share of the steps in which the learning rate rises (%(default)s)")  # fmt: skip
    add("--weight-decay", type=real(0), default=schedule.weight_decay, help="(%(default)s)")
    add("--label-smoothing", type=share, default=schedule.label_smoothing, help="(%(default)s)")


def add_network(
    parser: argparse.ArgumentParser, hidden: int, dropout: float, filters: Sequence[int] = ()
) -> None:
    """The flags of a network's size and dropout."""
    add = parser.add_argument
    add("--hidden", type=whole(1), default=hidden, help="nodes of the hidden layer (%(default)s)")
    add("--dropout", type=real(0, 0.99), default=dropout,
        help="share of the features hidden in training (%(default)s)")  # fmt: skip
    if filters:
        add("--filters", type=whole(1), nargs=len(filters), default=list(filters), metavar="N",
            help="of each stage of convolutions (%(default)s)")  # fmt: skip


def prepare_folders(args: argparse.Namespace) -> int:
    """Check the folders before the work starts, and choose the version to write.

    Raises:
        TrainingError: the model folder cannot be written.
    """
    if args.replace and args.version is None:
        raise BadFlag("--replace needs --version: the version to replace")
    if args.example is not None and not args.example.is_file():
        raise BadData(f"--example {args.example}: there is no such file")
    version = choose_version(args.models / args.name, args.version, replace=args.replace)
    check_writable("--models", args.models)
    check_writable("--cache", args.cache)
    return version


def run(args: argparse.Namespace, modality: Kind, mode: Mode) -> None:
    """Fit, measure, export and write a model folder.

    Raises:
        TrainingError: the command or the data are invalid.
    """
    began = time.monotonic()
    version = prepare_folders(args)
    torch.set_num_threads(args.threads)
    course = mode.prepare(args, modality)
    training = course.parts["train"]
    check_network(course.network, training, batch_size(args.batch, len(training)))
    draft = draft_manifest(args, modality, version, course)
    items = chain.from_iterable(part.items for part in course.parts.values())
    kept = Run(args.cache / "runs", identify(args, modality, items), resume=args.resume)
    prepared, began = time.monotonic() - began, time.monotonic()
    sweep, outcome, folds, held_out = _fit_course(course, _recipe(args, course), kept)
    network = outcome.network
    temperature = fit_temperature(held_out, course.parts["valid"].labels)
    divide_scores(network, temperature)
    answers: dict[Split, Tensor] = {
        split: answer(network, part) if split == "test" else (held_out / temperature).log_softmax(1)
        for split, part in course.parts.items()
        if split != "train"
    }
    scores = {split: score(given, course.parts[split].labels) for split, given in answers.items()}
    for split, found in scores.items():
        print(
            f"{course.name(split)}: accuracy {found.accuracy:.3f}, macro F1 {found.macro_f1:.3f},"
            f" calibration error {found.calibration_error:.3f}"
        )
    known = measure(network, training)
    new = compare(answers["valid"], course.parts["valid"].labels)
    commonest = training.labels.bincount().max().item() / len(training)
    diagnosis = diagnose(known, new, commonest, flags_of(args))
    print(diagnosis)
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch, "model.onnx")
        findings = Findings(
            answers=answers,
            scores=scores,
            disturbed={
                name: score(answer(network, part), part.labels)
                for name, part in course.disturbed.items()
            },
            learning_rate=sweep.chosen if sweep else args.lr,
            sweep=sweep,
            temperature=temperature,
            outcome=outcome,
            folds=folds,
            diagnosis=diagnosis,
            parity=export_network(network, course, graph),
            prepared_seconds=prepared,
            fit_seconds=time.monotonic() - began,
        )
        example = args.models / args.name / str(version) / "example"
        parser = argparse.ArgumentParser()
        mode.add_arguments(parser, modality)
        command = write_command(args, parser, f"{modality} --mode {args.mode}", example)
        folder = release(args, modality, draft, course, findings, graph, command)
    kept.finish()
    print(
        f"{folder} written: prepared in {prepared:.0f} s, fitted in {findings.fit_seconds:.0f} s;"
        f" PyTorch and onnxruntime differ by at most {findings.parity:.1g}"
    )
    print(tell_next(folder))


def _fit_course(
    course: Course, recipe: Recipe, kept: Run
) -> tuple[Sweep | None, Outcome, dict[str, Outcome], Tensor]:
    """The sweep, the outcome, those of the folds, the log-probabilities of the validation part."""
    network, checkpoint = course.network, kept.checkpoint("fit")
    training, validation = course.parts["train"], course.parts["valid"]
    if not course.folds:
        sweep, outcome = fit(network, training, validation, recipe, checkpoint=checkpoint)
        return sweep, outcome, {}, answer(outcome.network, validation)
    sweep, recipe = _choose_rate(network, training, recipe, "fit")
    folds = {
        name: fit(
            copy.deepcopy(network),
            known,
            new,
            recipe,
            title=f"without {name}",
            checkpoint=kept.checkpoint(f"without {name}"),
        )[1]
        for name, (known, new) in course.folds.items()
    }
    epochs = round(statistics.median(fold.best for fold in folds.values()))
    _, outcome = fit(network, training, None, recipe, epochs=epochs, checkpoint=checkpoint)
    answers = [answer(folds[name].network, new) for name, (_, new) in course.folds.items()]
    return sweep, outcome, folds, torch.cat(answers)


def _choose_rate(
    network: nn.Module, training: Part, recipe: Recipe, title: str
) -> tuple[Sweep | None, Recipe]:
    """The sweep, if the recipe wants one, and the recipe with its learning rate."""
    if not recipe.sweep:
        return None, recipe
    sweep = find_learning_rate(network, _batches(training, recipe), recipe.schedule)
    print(
        f"{title}: learning rate {sweep.chosen:g}: the sweep's loss is least,"
        f" {min(sweep.losses):.2f}, at four times that",
        flush=True,
    )
    schedule = replace(recipe.schedule, learning_rate=sweep.chosen)
    return sweep, replace(recipe, schedule=schedule, sweep=False)


def fit(
    network: nn.Module,
    training: Part,
    validation: Part | None,
    recipe: Recipe,
    *,
    epochs: int | None = None,
    title: str = "fit",
    checkpoint: Checkpoint | None = None,
) -> tuple[Sweep | None, Outcome]:
    """Train a network; the same seed gives the same weights on a CPU.

    Args:
        epochs: where training stops, if there is no validation part to choose the epoch by.
    """
    torch.manual_seed(recipe.seed)
    sweep, recipe = _choose_rate(network, training, recipe, title)

    def validate(candidate: nn.Module) -> Score:
        assert validation is not None
        return measure(candidate, validation)

    outcome = train(
        network,
        _batches(training, recipe),
        recipe.schedule,
        validate if validation else None,
        epochs,
        title,
        checkpoint,
    )
    accuracy = f", validation accuracy {outcome.score.accuracy:.3f}" if outcome.score else ""
    print(f"{title}: best of {len(outcome.epochs)} epochs: {outcome.best}{accuracy}", flush=True)
    return sweep, outcome


def _batches(training: Part, recipe: Recipe) -> Batches:
    return Batches(
        training.labels,
        batch_size(recipe.batch, len(training)),
        training.draw,
        recipe.seed,
        balance=recipe.balance,
        lengths=training.lengths,
    )


def export_network(network: nn.Module, course: Course, graph: Path) -> float:
    """Write the graph and return its largest difference from the network.

    Raises:
        ParityFailed: it is too large for real samples, in batches of several sizes.
    """
    axes, part = dynamic_axes(course.preprocessor), course.parts["valid"]
    inputs = dict(zip(axes, part.take(torch.tensor([0, len(part) - 1])), strict=True))
    export(network, inputs, [OUTPUT], axes, graph)
    # Samples from the whole split, to include many labels and lengths.
    batches = [
        dict(zip(axes, (i.numpy() for i in part.take(_spread(part, size))), strict=True))
        for size in PARITY_SIZES
    ]
    return check_parity(network, graph, batches, PARITY_LIMIT, np.exp)


def _spread(part: Part, size: int) -> Tensor:
    """int64[size]: evenly spaced places."""
    return torch.linspace(0, len(part) - 1, size).long()


def batch_size(wanted: int, items: int) -> int:
    """Smaller batches for few items, so that an epoch has enough steps."""
    return min(wanted, max(1, items // MIN_STEPS))


def flags_of(args: argparse.Namespace) -> frozenset[str]:
    """The flags of this mode, such as --weight-decay."""
    return frozenset(f"--{name.replace('_', '-')}" for name in vars(args))


def check_network(network: nn.Module, part: Part, batch: int) -> None:
    """Check before the work starts that the network accepts the inputs.

    Raises:
        BadFlag: they are too small.
    """
    try:
        with torch.inference_mode():
            copy.deepcopy(network).train()(*part.take(torch.zeros(batch, dtype=torch.long)))
    except (RuntimeError, ValueError) as error:  # from a convolution or batch normalisation
        raise BadFlag(
            f"the network cannot take inputs of this size; make them larger: {error}"
        ) from error


def check_example(example: Path | None, read: Callable[[bytes], object]) -> None:
    """Check before the work starts that the example is readable.

    Raises:
        BadData: it cannot be read.
    """
    if example is None:
        return
    try:
        read(example.read_bytes())
    except (CallerError, OSError) as error:
        raise BadData(f"--example {example}: {error}") from error


def _recipe(args: argparse.Namespace, course: Course) -> Recipe:
    schedule = Schedule(
        epochs=args.epochs,
        learning_rate=0.0 if args.lr == "auto" else args.lr,
        weight_decay=args.weight_decay,
        label_smoothing=args.label_smoothing,
        patience=args.patience,
        warm_up=args.warm_up,
        layers=course.layers,
    )
    return Recipe(
        schedule=schedule,
        batch=args.batch,
        threads=args.threads,
        sweep=args.lr == "auto",
        balance=args.balance,
        seed=args.seed,
    )


def identify(args: argparse.Namespace, modality: Kind, items: Iterable[Item]) -> str:
    """Everything that the weights depend on: flags and data."""
    flags = {n: value for n, value in vars(args).items() if n not in (*PLACES, *WORDS)}
    states = [_state(item) for item in items]
    return "\n".join([modality, str(sorted(flags.items(), key=itemgetter(0))), *states])


def _state(item: Item) -> str:
    content = item.content
    if isinstance(content, Path):
        found = content.stat()
        content = f"{found.st_size} {found.st_mtime_ns}"
    return f"{item.name}\t{item.label}\t{content}"


def write_command(
    args: argparse.Namespace, parser: argparse.ArgumentParser, what: str, example: Path
) -> str:
    """The command that trains this model again, with the example from its folder.

    Args:
        parser: has the defaults of the flags.
        what: the modality and the mode.
        example: its path without the suffix.
    """
    command = ["python", "-m", "training", "fit", *what.split()]
    for name, value in vars(args).items():
        if name == "example" and value:
            value = example.with_name(name_example(value))
        if name not in (*PLACES, "mode") and value != parser.get_default(name):
            flag = name.replace("_", "-")
            values = value if isinstance(value, list) else [value]
            command += [f"--no-{flag}"] if value is False else [f"--{flag}", *map(str, values)]
    return shlex.join(command)
