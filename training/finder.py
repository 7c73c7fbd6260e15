"""The learning rate finder: a short sweep from low to high rates."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from training.errors import TrainingError
from training.loop import Schedule, build_optimizer, smoothed_loss
from training.material import Batches, Inputs

LOWEST, HIGHEST = 1e-5, 0.1  # of AdamW: lower learns nothing, higher misleads on easy data
STEPS = 120  # 30 per decade, so that each rate affects the mean
MEMORY = 0.9  # of the running mean of the loss, about ten steps
DIVERGED = 2.0  # times the least loss ends the sweep
MARGIN = 4.0  # the chosen rate is this much below the rate of the least loss


class NoLearningRate(TrainingError):
    """The loss falls at no rate."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The running mean of the loss at each rate until it diverges, and the chosen rate."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    chosen: float


def find_learning_rate(network: nn.Module, batches: Batches, schedule: Schedule) -> Sweep:
    """Raise the rate step by step while a copy of the network trains.

    Leslie Smith's range test (arXiv 1506.01186). The choice is a quarter of the rate with
    the least loss, because larger steps begin to overshoot. The network itself does not change.

    Raises:
        NoLearningRate: the loss falls at no rate.
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
        raise NoLearningRate("the loss falls at no learning rate; check the labels, or set --lr")
    return float(f"{rates[least] / MARGIN:.2g}")  # two digits, the precision of the sweep
