"""The training loop: forward, loss, backpropagation, a step downhill; stop before overfitting."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

WARM_UP = 0.15  # share of the steps in which the learning rate rises, before it falls to nothing
AVERAGING = 0.98  # of the weights over about fifty steps: calmer curves, a flatter minimum


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how boldly to descend."""

    epochs: int
    learning_rate: float  # at its height
    weight_decay: float
    label_smoothing: float
    patience: int  # epochs that may pass without a better validation loss


@dataclass(frozen=True, slots=True)
class Score:
    """How well a network does on takes that it was not trained on."""

    loss: float  # mean negative log-probability of the right label
    accuracy: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training takes came to; `valid` is None where nothing is held out."""

    loss: float
    valid: Score | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The network as it was after its best epoch, and how it came there."""

    network: nn.Module
    epochs: tuple[Epoch, ...]
    best: int  # counted from 1

    @property
    def score(self) -> Score | None:
        return self.epochs[self.best - 1].valid


class Batches:
    """The training takes, batch by batch, in a new order and a new guise each epoch."""

    def __init__(
        self,
        labels: Tensor,
        size: int,
        draw: Callable[[Tensor, torch.Generator], Tensor],
        seed: int,
    ) -> None:
        """Args:
        labels: int64[takes].
        draw: indices of takes, int64[n] -> augmented inputs, float32[n, ...].
        """
        self._labels = labels
        self._size = min(size, len(labels))
        self._draw = draw
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Whole batches only: the statistics of a small rest would disturb batch normalisation."""
        return len(self._labels) // self._size

    def epoch(self) -> Iterable[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self._labels), generator=self._generator)
        for number in range(len(self)):
            chosen = order[number * self._size : (number + 1) * self._size]
            yield self._draw(chosen, self._generator), self._labels[chosen]


def train(
    network: nn.Module,
    batches: Batches,
    schedule: Schedule,
    validate: Callable[[nn.Module], Score] | None = None,
    stop_after: int | None = None,
    title: str = "",
) -> Outcome:
    """Train a network that gives log-probabilities.

    Args:
        validate: scores the network after each epoch; the best epoch's weights are kept.
        stop_after: without validation, the epoch that was found to be best elsewhere. The
            learning rate still follows the whole schedule, as it did there.
    """
    averaged = AveragedModel(network, avg_fn=_average, use_buffers=True)
    optimizer = torch.optim.AdamW(
        network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    steps = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, schedule.epochs * len(batches), pct_start=WARM_UP
    )
    history: list[Epoch] = []
    best, best_loss, best_network = 0, math.inf, copy.deepcopy(averaged.module)
    with tqdm(total=stop_after or schedule.epochs, desc=title, unit="epoch", leave=False) as bar:
        while len(history) < (stop_after or schedule.epochs):
            losses = []
            network.train()
            for inputs, labels in batches.epoch():
                log_probabilities = network(inputs)  # forward
                loss = smoothed_loss(log_probabilities, labels, schedule.label_smoothing)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # backpropagation
                optimizer.step()  # gradient descent
                steps.step()
                averaged.update_parameters(network)
                losses.append(loss.item())
            score = validate(averaged.module.eval()) if validate else None
            history.append(Epoch(sum(losses) / len(losses), score))
            bar.update()
            bar.set_postfix_str(_describe(history[-1]))
            if score is None or score.loss < best_loss:
                best, best_network = len(history), copy.deepcopy(averaged.module)
                best_loss = score.loss if score else math.inf
            elif len(history) - best >= schedule.patience:
                break  # it learns the training takes by heart now
    return Outcome(best_network.eval(), tuple(history), best)


def _average(old: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
    """A running mean with a short memory at first, so that it soon forgets the random start."""
    return old + (1 - min(AVERAGING, (1 + int(count)) / (10 + int(count)))) * (new - old)


def smoothed_loss(log_probabilities: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Negative log-likelihood, a share of it spread over all labels so that none becomes certain.

    Args:
        log_probabilities: float32[n, classes].
        labels: int64[n].
    """
    right = functional.nll_loss(log_probabilities, labels)
    return (1 - smoothing) * right - smoothing * log_probabilities.mean()


def measure(network: nn.Module, inputs: Tensor, labels: Tensor) -> Score:
    """Score a network in evaluation mode on float32[n, ...] inputs and int64[n] labels."""
    with torch.inference_mode():
        log_probabilities = network(inputs)
        loss = functional.nll_loss(log_probabilities, labels).item()
        accuracy = (log_probabilities.argmax(dim=1) == labels).float().mean().item()
    return Score(loss, accuracy)


def _describe(epoch: Epoch) -> str:
    text = f"loss {epoch.loss:.3f}"
    if epoch.valid:
        text += f", valid {epoch.valid.loss:.3f}, accuracy {epoch.valid.accuracy:.3f}"
    return text
