"""Fit a network to words of many speakers: choices on each left out, then one fit on all of them.

python -m training fit audio --mode speakers --data DIR
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from service.limits import InputLimits, core_budget
from service.model.manifest import Example, Figure, Graph, Manifest, Origin
from service.model.preprocessing.audio import AudioPreprocessing, AudioPreprocessor, LogMel
from service.model.specs import Kind
from service.model.tasks.classify import ClassifySpec
from service.regular import sha256
from training.augmentation import Augmentation, augment
from training.checkpoint import Checkpoint, Run
from training.datasets import DIGITS_URL, fetch_digits
from training.diagnosis import diagnose
from training.disturbance import DISTURBANCES
from training.export import check_parity, export
from training.finder import find_learning_rate
from training.fitting import (
    add_network,
    add_schedule,
    check_example,
    check_network,
    flags_of,
    identify,
    prepare_folders,
    write_command,
)
from training.flags import (
    above,
    add_augmentation,
    add_hearing,
    read_augmentation,
    read_hearing,
    read_name,
    read_rate,
    read_words,
    whole,
)
from training.folder import Content, name_example, write_folder
from training.loop import Outcome, Schedule, Score, answer, measure, train
from training.material import Batches, Inputs, part_of
from training.measures import accuracy
from training.networks.spectrogram import DROPOUT, FILTERS, HIDDEN, SpectrogramNet
from training.next_steps import tell_next
from training.page import Answers
from training.recordings import DIGITS, Recordings, find_recordings
from training.release import name_data
from training.report import Findings, HeldOut, draw_confusion, write_card, write_report
from training.scores import divide_scores, fit_temperature
from training.spectrograms import Indices, Spectrograms, compute_spectrograms

NAME = "spoken-digits"
DESCRIPTION = "Says which of {labels} was spoken in a short recording."
CREDIT = "Free Spoken Digit Dataset (Jakobovski et al., v1.0.10), CC BY-SA 4.0"
LICENCE = "CC BY-SA 4.0"  # as the data that the weights are made of

LOG_MEL = LogMel(
    window=512,  # 32 ms: resolves the harmonics of a voice
    hop=160,  # 10 ms: a plosive is not much longer
    bands=40,
    low_hz=80.0,  # below is hum
    high_hz=3_800.0,  # the data end at 4 kHz; better microphones must not look different
    floor=1e-8,  # the noise of 16-bit samples: quieter is silence
)
PREPROCESSING = AudioPreprocessing(
    modality="audio",
    input="spectrogram",
    sample_rate=16_000,  # what most speech models take; the data's 8 kHz are resampled to it
    seconds=1.0,  # 99 % of the takes are shorter
    keep="centre",
    log_mel=LOG_MEL,
)
# Each speaker at seven speeds is like seven speakers; beyond a fourth, words sound unnatural.
OTHER_SPEEDS = (0.8, 0.87, 0.93, 1.07, 1.15, 1.25)
AUGMENTATION = Augmentation(
    shift=0.15,  # the silence that users leave before a word
    stretch=0.15,
    formants=0.05,
    colour=1.0,
    noise=0.6,
    noise_below_peak=(5.0, 13.0),  # 21 to 56 dB
    mask_bands=0.3,
    mask_frames=0.24,
)
SCHEDULE = Schedule(
    epochs=24,  # the folds are best between the 11th and the last
    learning_rate=3e-3,  # of AdamW, at the height of one cycle
    weight_decay=0.05,
    label_smoothing=0.1,
    patience=8,
)
BATCH = 64  # some thirty steps an epoch on the digits
SEED = 0

GRAPH, LABELS, PICTURE = "model.onnx", "labels.txt", "confusion.png"
OUTPUT = "log_probabilities"
PARITY_SIZES = (1, 2, 3, 8)
PARITY_LIMIT = 1e-4
TOLERANCE = 1e-3  # of a probability, between this machine's onnxruntime and another's


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers of a fit that flags change."""

    schedule: Schedule = SCHEDULE
    batch: int = BATCH
    seed: int = SEED
    augmentation: Augmentation = AUGMENTATION
    filters: tuple[int, ...] = FILTERS
    hidden: int = HIDDEN
    dropout: float = DROPOUT
    floor: float = LOG_MEL.floor


def add_arguments(parser: argparse.ArgumentParser, modality: Kind = "audio") -> None:  # noqa: ARG001
    """The flags of `python -m training fit audio --mode speakers`."""
    add = parser.add_argument
    add("--data", type=Path, help="DIR/<class>/<speaker>_<take>.wav (default: download digits)")
    add("--url", default=DIGITS_URL, help="where the digits are downloaded from")
    add("--cache", type=Path, default=Path(".cache"), help="for what need not be done twice")
    add("--resume", action="store_true", help="go on where an interrupted run stopped")
    add("--name", type=read_name, default=NAME, help="the model's name (default: %(default)s)")
    add("--models", type=Path, default=Path("models"), help="the folder of model folders")
    add("--version", type=whole(1), help="refused if it is there (default: the next free number)")
    add("--replace", action="store_true", help="put it in the place of an older --version")
    add("--example", type=Path, help="the recording that travels with the model"
        " (default: the first test take)")  # fmt: skip
    add("--example-source", type=read_words, default="a recording of the test split",
        help="its origin, for the card")  # fmt: skip
    add("--description", type=read_words, help="what the model says, in one sentence")
    add("--credit", type=read_words, help="the data's title and licence, for the card")
    add("--licence", type=read_words, help="of the model, for the card")
    add("--lr", type=read_rate, default=SCHEDULE.learning_rate,
        help="or auto: a sweep finds it (default: %(default)s)")  # fmt: skip
    add_schedule(parser, SCHEDULE)
    add("--batch", type=whole(1), default=BATCH, help="recordings a step (default: %(default)s)")
    add("--seed", type=whole(0), default=SEED)
    add("--threads", type=whole(1), default=core_budget(), help="less where other work is done")
    add_network(parser, HIDDEN, DROPOUT, FILTERS)
    assert PREPROCESSING.log_mel is not None
    add_hearing(parser, PREPROCESSING.seconds, PREPROCESSING.sample_rate, PREPROCESSING.log_mel)
    add_augmentation(parser, AUGMENTATION)
    add("--speeds", type=above(0.25, 4), nargs="*", default=list(OTHER_SPEEDS), metavar="FACTOR",
        help="at which each recording is heard as well (default: %(default)s)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Fit, measure, export and write a model folder.

    Raises:
        TrainingError: with a sentence for whoever typed the command.
    """
    began = time.monotonic()
    version = prepare_folders(args)
    preprocessing = read_hearing(args, PREPROCESSING.keep)
    check_example(args.example, AudioPreprocessor(preprocessing, InputLimits()).decode)
    data = find_recordings(args.data or fetch_digits(args.cache / "datasets", args.url))
    torch.set_num_threads(args.threads)
    recipe = _recipe(args)
    material = compute_spectrograms(data, preprocessing, args.speeds)
    kept = Run(args.cache / "runs", identify(args, "audio", material.items), resume=args.resume)
    training, test = material.split_by_take()
    check_network(_begin(material, training, recipe)[0], material.unchanged(training), args.batch)
    sweep = None
    if args.lr == "auto":
        schedule = recipe.schedule
        sweep = find_learning_rate(*_begin(material, training, recipe), schedule)
        print(f"learning rate {sweep.chosen:g}", flush=True)
        recipe = replace(recipe, schedule=replace(schedule, learning_rate=sweep.chosen))
    folds = [
        _hold_out(material, speaker, recipe, kept.checkpoint(f"without {speaker}"))
        for speaker in data.speakers
    ]
    epochs = round(statistics.median(fold.best_epoch for fold in folds))
    mean = statistics.mean(fold.accuracy for fold in folds)
    print(
        f"mean over speakers left out: {mean:.3f}; the last fit takes {epochs} epochs", flush=True
    )
    outcome = fit(
        material,
        training,
        recipe,
        stop_after=epochs,
        title="all speakers",
        checkpoint=kept.checkpoint("all speakers"),
    )
    network = outcome.network
    temperature, folds = _calibrate(folds)
    known, new = measure(network, material.unchanged(training)), _score(folds)
    divide_scores(network, temperature)
    answers = _answers(network, material, test)
    print(f"official test split: {accuracy(answers.right, answers.given):.3f}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch, GRAPH)
        parity = _export(network, preprocessing.input, material, test, graph)
        findings = Findings(
            folds=tuple(folds),
            test=answers,
            disturbed=_try_disturbances(network, preprocessing, data),
            outcome=outcome,
            sweep=sweep,
            learning_rate=recipe.schedule.learning_rate,
            temperature=temperature,
            diagnosis=diagnose(known, new, material.commonest, flags_of(args)),
            parameters=sum(weights.numel() for weights in network.parameters()),
            parity=parity,
            minutes=(time.monotonic() - began) / 60,
            threads=args.threads,
        )
        folder = _release(args, version, preprocessing, data, findings, graph)
    kept.finish()
    print(findings.diagnosis)
    print(f"{folder} written; PyTorch and onnxruntime differ by at most {parity:.1g}")
    print(tell_next(folder))


def _recipe(args: argparse.Namespace) -> Recipe:
    schedule = Schedule(
        epochs=args.epochs,
        learning_rate=0.0 if args.lr == "auto" else args.lr,
        weight_decay=args.weight_decay,
        label_smoothing=args.label_smoothing,
        patience=args.patience,
        warm_up=args.warm_up,
    )
    return Recipe(
        schedule,
        args.batch,
        args.seed,
        read_augmentation(args),
        tuple(args.filters),
        args.hidden,
        args.dropout,
        args.floor,
    )


def _hold_out(
    material: Spectrograms, speaker: str, recipe: Recipe, checkpoint: Checkpoint
) -> HeldOut:
    """One fold: train on the others, stop when this speaker's loss no longer falls."""
    training, validation = material.split_by_speaker(speaker)
    part = material.unchanged(validation)

    def validate(network: nn.Module) -> Score:
        return measure(network, part)

    outcome = fit(
        material,
        training,
        recipe,
        validate=validate,
        title=f"without {speaker}",
        checkpoint=checkpoint,
    )
    answers = _answers(outcome.network, material, validation)
    last = outcome.epochs[-1].valid
    assert last is not None
    fold = HeldOut(speaker, answers, outcome.best, last.accuracy)
    print(f"without {speaker}: {fold.accuracy:.3f} at epoch {outcome.best}", flush=True)
    return fold


def _score(folds: Sequence[HeldOut]) -> Score:
    """The mean over speakers left out."""
    losses = [
        -np.log(fold.answers.probabilities[np.arange(len(fold.answers.right)), fold.answers.right])
        for fold in folds
    ]
    loss = float(np.mean([each.mean() for each in losses]))
    return Score(loss, statistics.mean(fold.accuracy for fold in folds))


def _calibrate(folds: Sequence[HeldOut]) -> tuple[float, list[HeldOut]]:
    """The temperature that suits speakers left out, and the folds with it."""
    probabilities = np.concatenate([fold.answers.probabilities for fold in folds])
    labels = np.concatenate([fold.answers.right for fold in folds])
    logarithms = torch.from_numpy(probabilities).log()
    temperature = fit_temperature(logarithms, torch.from_numpy(labels))

    def temper(fold: HeldOut) -> HeldOut:
        scores = torch.from_numpy(fold.answers.probabilities).log() / temperature
        return replace(fold, answers=replace(fold.answers, probabilities=scores.softmax(1).numpy()))

    return temperature, [temper(fold) for fold in folds]


def fit(
    material: Spectrograms,
    training: Indices,
    recipe: Recipe,
    *,
    validate: Callable[[nn.Module], Score] | None = None,
    stop_after: int | None = None,
    title: str = "",
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train a new network on some of the takes; the same seed gives the same weights."""
    network, batches = _begin(material, training, recipe)
    return train(network, batches, recipe.schedule, validate, stop_after, title, checkpoint)


def _begin(
    material: Spectrograms, training: Indices, recipe: Recipe
) -> tuple[SpectrogramNet, Batches]:
    torch.manual_seed(recipe.seed)
    network = SpectrogramNet(
        material.classes, material.bands, recipe.filters, recipe.hidden, recipe.dropout
    )
    takes = torch.from_numpy(training)
    speeds = len(material.at_speeds)
    silence = math.log(recipe.floor)

    def draw(chosen: Tensor, random: torch.Generator) -> Inputs:
        speed = torch.randint(speeds, chosen.shape, generator=random)
        at_speed = material.at_speeds[speed, takes[chosen]]
        return (augment(at_speed, recipe.augmentation, silence, random),)

    return network, Batches(material.labels[takes], recipe.batch, draw, recipe.seed)


def _answers(network: nn.Module, material: Spectrograms, takes: Indices) -> Answers:
    part = material.unchanged(takes)
    probabilities = answer(network, part).exp().numpy()
    return Answers(
        tuple(material.items[take] for take in takes), part.labels.numpy(), probabilities
    )


def _try_disturbances(
    network: nn.Module, preprocessing: AudioPreprocessing, data: Recordings
) -> dict[str, float]:
    """Accuracy on the test takes after each of the disturbances."""
    preprocessor = AudioPreprocessor(preprocessing, InputLimits())
    takes = [take for take in data.takes if take.is_test]
    labels = torch.tensor([take.label for take in takes])
    accuracies = {}
    for what, disturb in DISTURBANCES.items():
        samples = [preprocessor.decode(disturb(take.path)) for take in takes]
        feeds = preprocessor.collate(samples)
        score = measure(network, part_of(torch.from_numpy(feeds[preprocessing.input]), labels))
        accuracies[what] = score.accuracy
    return accuracies


def _export(
    network: nn.Module, name: str, material: Spectrograms, test: Indices, graph: Path
) -> float:
    """Write the graph; the greatest difference between it and the network."""
    [takes] = material.unchanged(test).take(torch.arange(len(test)))
    export(network, {name: takes[:2]}, [OUTPUT], {name: {0: "batch"}}, graph)
    # Spread over the split, so that a batch holds several words and speakers.
    batches = [{name: takes[:: -(-len(takes) // size)].numpy()} for size in PARITY_SIZES]
    return check_parity(network, graph, batches, PARITY_LIMIT, np.exp)


def _release(
    args: argparse.Namespace,
    version: int,
    preprocessing: AudioPreprocessing,
    data: Recordings,
    findings: Findings,
    graph: Path,
) -> Path:
    """Write the model folder, and prove it by the serving path."""
    test_takes = [take.path for take in data.takes if take.is_test]
    recording: Path = args.example or test_takes[0]
    example = name_example(recording)
    own = args.name != NAME or data.labels != DIGITS
    credit = name_data("recordings", data.folder) if own else CREDIT
    licence = "that of its data" if own else LICENCE
    manifest = Manifest(
        format=1,
        name=args.name,
        version=version,
        description=args.description or _describe(data.labels),
        preprocessing=preprocessing,
        graphs=(Graph(file=GRAPH, sha256=sha256(graph)),),
        tasks={"classify": ClassifySpec(output=OUTPUT, activation="log_softmax", labels=LABELS)},
        example=Example(file=example, tolerance={"fp32": TOLERANCE}),
        origin=Origin(
            source="trained here, from scratch",
            licence=args.licence or licence,
            data=args.credit or credit,
        ),
        evaluation=(
            _figure(findings.held_out_accuracy, "mean over speakers left out of training"),
            _figure(findings.test_accuracy, "official test split, takes 00 to 04"),
        ),
    )
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    place = args.models / args.name / str(version) / "example"
    command = write_command(args, parser, "audio --mode speakers", place)
    card = write_card(manifest, findings, data.labels, PICTURE, args.example_source, command)
    files: dict[str, Content] = {
        GRAPH: graph,
        LABELS: "".join(f"{label}\n" for label in data.labels),
        example: recording,
        PICTURE: draw_confusion(findings, data.labels),
        manifest.card: card,
        "report.html": write_report(manifest, findings, data.labels, command),
    }
    return write_folder(args.models, manifest, files, replace=args.replace)


def _describe(labels: Sequence[str]) -> str:
    return DESCRIPTION.format(labels=f"{', '.join(labels[:-1])} or {labels[-1]}")


def _figure(accuracy: float, data: str) -> Figure:
    return Figure(metric="accuracy", value=round(accuracy, 4), data=data)
