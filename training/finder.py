"""The learning rate chosen on evidence: a short sweep from timid to reckless."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from training.errors import TrainingError
from training.loop import Schedule, build_optimizer, smoothed_loss
from training.material import Batches, Inputs

LOWEST, HIGHEST = 1e-5, 0.1  # AdamW's steps: below nothing moves, above easy data mislead
STEPS = 120  # 30 a decade: each rate acts for long enough to show in the mean
MEMORY = 0.9  # of the running mean of the loss, about ten steps
DIVERGED = 2.0  # times the least loss: nothing is to be learned from going on
MARGIN = 4.0  # below the rate of the least loss, where descent already begins to fail


class NoLearningRate(TrainingError):
    """At no rate does the loss fall."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The running mean of the loss at each rate, up to where it diverged, and the choice."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    chosen: float


def find_learning_rate(network: nn.Module, batches: Batches, schedule: Schedule) -> Sweep:
    """Raise the rate step by step while a copy of the network trains, and watch the loss.

    Leslie Smith's range test (arXiv 1506.01186). The choice is a quarter of the rate at which
    the loss is least: bold, but not where the steps begin to overshoot. The network itself stays
    as it is.

    Raises:
        NoLearningRate: the loss falls at no rate: the data cannot be learned from.
    """
    network = copy.deepcopy(network).train()
    optimizer = build_optimizer(network, schedule)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for step, (inputs, labels) in zip(range(STEPS), _endless(batches), strict=False):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        loss = smoothed_loss(network(*inputs), labels, schedule.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        mean = MEMORY * mean + (1 - MEMORY) * loss.item()
        unbiased = mean / (1 - MEMORY ** (step + 1))
        if not math.isfinite(unbiased):
            break
        rates.append(rate)
        losses.append(unbiased)
        if unbiased > DIVERGED * min(losses):
            break
    return Sweep(tuple(rates), tuple(losses), _choose(rates, losses))


def _endless(batches: Batches) -> Iterator[tuple[Inputs, Tensor]]:
    while True:
        yield from batches.epoch()


def _choose(rates: list[float], losses: list[float]) -> float:
    least = min(range(len(losses)), key=losses.__getitem__, default=0)
    if least == 0:
        raise NoLearningRate(
            "the loss falls at no learning rate: look at the labels, or set --lr yourself"
        )
    return float(f"{rates[least] / MARGIN:.2g}")  # two digits: the sweep knows no more
