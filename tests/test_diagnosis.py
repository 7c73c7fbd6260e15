"""Three data sets made to underfit, overfit and fit are named so."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from service.model.specs import Kind
from training.diagnosis import ADVICE, Diagnosis, Verdict, diagnose
from training.fit import MODES, build_parser
from training.fitting import flags_of
from training.loop import Schedule, Score, measure, train
from training.material import Batches, Part, part_of

SCHEDULE = Schedule(epochs=30, learning_rate=0.01, weight_decay=0, label_smoothing=0, patience=1000)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """So small a network only waits for threads that spin beside other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def clouds(takes: int, distance: float, seed: int) -> Part:
    """Two clouds of points in twenty dimensions, their centres so far apart."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (takes,), generator=random)
    points = torch.randn((takes, 20), generator=random)
    points[:, 0] += distance * (labels - 0.5)
    return part_of(points, labels)


def rings(takes: int, seed: int) -> Part:
    """A ring around a disc: no straight line tells them apart."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (takes,), generator=random)
    angles = torch.rand(takes, generator=random) * 2 * torch.pi
    radii = labels + 1 + 0.1 * torch.randn(takes, generator=random)
    return part_of(torch.stack([radii * angles.cos(), radii * angles.sin()], dim=1), labels)


def linear(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 2), nn.LogSoftmax(dim=1))


def deep(inputs: int) -> nn.Module:
    hidden = nn.Linear(inputs, 128)
    return nn.Sequential(hidden, nn.ReLU(), nn.Linear(128, 2), nn.LogSoftmax(dim=1))


def examine(network: nn.Module, known: Part, new: Part) -> Diagnosis:
    """Train to the last epoch, so that what is wrong has time to show."""
    batches = Batches(known.labels, 16, lambda chosen, _: known.take(chosen), seed=0)
    train(network, batches, SCHEDULE)
    guessing = known.labels.bincount().max().item() / len(known)
    return diagnose(measure(network, known), measure(network, new), guessing)


@pytest.mark.parametrize(
    ("network", "known", "new", "verdict"),
    [
        (linear(2), rings(200, 1), rings(200, 2), "underfits"),
        (deep(20), clouds(48, 1.0, 1), clouds(400, 1.0, 2), "overfits"),
        (deep(2), rings(200, 1), rings(200, 2), "fits"),
        (linear(20), clouds(400, 6.0, 1), clouds(400, 6.0, 2), "fits"),
    ],
)
def test_what_was_made_so_is_named_so(
    network: nn.Module, known: Part, new: Part, verdict: str
) -> None:
    torch.manual_seed(0)
    diagnosis = examine(network, known, new)
    assert diagnosis.verdict == verdict, str(diagnosis)


@pytest.mark.parametrize(
    ("known", "new", "guessing", "verdict"),
    [
        (0.99, 0.97, 0.5, "fits"),
        (0.99, 0.85, 0.5, "overfits"),
        (0.85, 0.74, 0.1, "fits"),  # a gap, but the errors do not double
        (0.55, 0.54, 0.5, "underfits"),
        (0.55, 0.30, 0.5, "underfits"),  # first it has to learn at all
        (0.55, 0.54, 0.01, "fits"),  # of a hundred classes, half is not little
    ],
)
def test_the_rule(known: float, new: float, guessing: float, verdict: str) -> None:
    diagnosis = diagnose(Score(0.1, known), Score(0.2, new), guessing)
    assert diagnosis.verdict == verdict
    assert verdict in str(diagnosis)
    without_flags = [what for what, flags in ADVICE[diagnosis.verdict].items() if not flags]
    assert all(what in str(diagnosis) for what in without_flags)


@pytest.mark.parametrize("verdict", ADVICE)
@pytest.mark.parametrize(("what", "mode"), [(w, m) for w, modes in MODES.items() for m in modes])
def test_every_flag_that_is_advised_is_one_of_the_mode(
    what: Kind, mode: str, verdict: Verdict
) -> None:
    parser, _ = build_parser(what, mode)
    known = {flag for action in parser._actions for flag in action.option_strings}
    required = ["--data", "here", "--name", "mine"]
    flags = flags_of(parser.parse_args(required))
    assert flags <= known
    said = str(Diagnosis(verdict, Score(1, 0.5), Score(1, 0.5), 0.5, flags))
    advised = re.findall(r"--[a-z-]+", said)
    assert set(advised) <= known
    assert advised or verdict == "fits"
    if verdict != "fits":
        assert {"--epochs", "--patience", "--dropout", "--weight-decay", "--hidden"} <= set(advised)


def test_every_flag_of_the_advice_is_one_of_some_mode() -> None:
    parsers = [build_parser(what, mode)[0] for what, modes in MODES.items() for mode in modes]
    known = {flag for p in parsers for action in p._actions for flag in action.option_strings}
    assert {
        flag for advice in ADVICE.values() for flags in advice.values() for flag in flags
    } <= known
