"""The training loop: forward, loss, backpropagation, optimiser step, early stopping."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from training.checkpoint import Checkpoint
from training.material import Batches, Part

AVERAGING = 0.98  # weight averaging over about 50 steps: smoother curves, a flatter minimum
TOLD = 5.0  # seconds; a longer epoch is logged
ANSWERED = 128  # samples per batch without gradients


@dataclass(frozen=True, slots=True)
class Layers:
    """Some of a network's parameters, and their share of the learning rate."""

    parameters: Sequence[nn.Parameter]
    scale: float = 1.0


def all_alike(network: nn.Module) -> list[Layers]:
    return [Layers(list(network.parameters()))]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The length and the step sizes of the optimisation."""

    epochs: int
    learning_rate: float  # its maximum, for layers of scale 1
    weight_decay: float
    label_smoothing: float
    patience: int  # epochs without a better validation loss before training stops
    warm_up: float = 0.15  # share of the steps in which the learning rate rises
    layers: Callable[[nn.Module], list[Layers]] = all_alike


@dataclass(frozen=True, slots=True)
class Score:
    """Loss and accuracy of a network on one part."""

    loss: float  # mean negative log-probability of the right label
    accuracy: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """The result of one pass over the training part; `valid` is None without a validation part."""

    loss: float
    valid: Score | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The network after its best epoch, and the history."""

    network: nn.Module
    epochs: tuple[Epoch, ...]
    best: int  # counted from 1

    @property
    def score(self) -> Score | None:
        return self.epochs[self.best - 1].valid


def train(
    network: nn.Module,
    batches: Batches,
    schedule: Schedule,
    validate: Callable[[nn.Module], Score] | None = None,
    stop_after: int | None = None,
    title: str = "",
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train a network that gives log-probabilities.

    Args:
        validate: scores the network after each epoch; the best epoch's weights are kept.
        stop_after: the last epoch, if there is no validation. The learning rate still follows
            the whole schedule.
        checkpoint: written after each epoch. Training continues from it, and the outcome equals
            that of an uninterrupted run.
    """
    averaged = AveragedModel(network, avg_fn=_average, use_buffers=True)
    optimizer = build_optimizer(network, schedule)
    steps = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        schedule.epochs * len(batches),
        pct_start=schedule.warm_up,
    )
    best_network = copy.deepcopy(averaged.module)
    changing = {
        "network": network,
        "averaged": averaged,
        "best_network": best_network,
        "optimizer": optimizer,
        "steps": steps,
        "batches": batches,
    }
    history, best = _resume(checkpoint, changing)
    epochs = stop_after or schedule.epochs
    with tqdm(
        total=epochs * len(batches), initial=len(history) * len(batches), desc=title, unit="step",
        leave=False, disable=None,
    ) as bar:  # fmt: skip
        while len(history) < epochs and len(history) - best < schedule.patience:
            losses, began = [], time.monotonic()
            network.train()
            for inputs, labels in batches.epoch():
                log_probabilities = network(*inputs)  # forward
                loss = smoothed_loss(log_probabilities, labels, schedule.label_smoothing)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # backpropagation
                optimizer.step()  # gradient descent
                steps.step()
                averaged.update_parameters(network)
                losses.append(loss.item())
                bar.update()
            score = validate(averaged.module.eval()) if validate else None
            least = _loss(history[best - 1]) if best else math.inf
            history.append(Epoch(sum(losses) / len(losses), score))
            bar.set_postfix_str(_describe(history[-1]))
            if bar.disable and time.monotonic() - began > TOLD:  # no progress bar in a log
                print(
                    f"{title}: epoch {len(history)} of {epochs}: {_describe(history[-1])}",
                    flush=True,
                )
            if score is None or score.loss < least:  # otherwise it overfits
                best = len(history)
                best_network.load_state_dict(averaged.module.state_dict())
            if checkpoint:
                _keep(checkpoint, changing, history, best)
    return Outcome(best_network.eval(), tuple(history), best)


def build_optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """An optimiser with one group per `Layers`; each group keeps its "scale"."""
    groups = [
        {
            "params": list(layers.parameters),
            "lr": schedule.learning_rate * layers.scale,
            "scale": layers.scale,
        }
        for layers in schedule.layers(network)
    ]
    return torch.optim.AdamW(groups, weight_decay=schedule.weight_decay)


def smoothed_loss(log_probabilities: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Negative log-likelihood with label smoothing: a share is spread over all labels.

    Args:
        log_probabilities: float32[n, classes].
        labels: int64[n].
    """
    right = functional.nll_loss(log_probabilities, labels)
    return (1 - smoothing) * right - smoothing * log_probabilities.mean()


def answer(network: Callable[..., Tensor], part: Part) -> Tensor:
    """The outputs of a network in evaluation mode: float32[n, ...]."""
    places, answers = [], []
    with torch.inference_mode():
        for chosen, inputs in part.batches(ANSWERED):
            places.append(chosen)
            answers.append(network(*inputs))
    return torch.cat(answers)[torch.cat(places).argsort()]


def measure(network: nn.Module, part: Part) -> Score:
    """Score a network in evaluation mode that returns log-probabilities."""
    return compare(answer(network, part), part.labels)


def compare(log_probabilities: Tensor, labels: Tensor) -> Score:
    """Score answers, float32[n, classes], by their right labels, int64[n]."""
    loss = functional.nll_loss(log_probabilities, labels).item()
    accuracy = (log_probabilities.argmax(dim=1) == labels).float().mean().item()
    return Score(loss, accuracy)


def _average(old: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
    """A running mean whose memory starts short, so that it forgets the random start."""
    return old + (1 - min(AVERAGING, (1 + int(count)) / (10 + int(count)))) * (new - old)


def _resume(checkpoint: Checkpoint | None, changing: dict[str, Any]) -> tuple[list[Epoch], int]:
    """Restore a checkpoint; return the epochs so far and the best of them."""
    state = checkpoint.read() if checkpoint else None
    if state is None:
        return [], 0
    for name, part in changing.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["chance"])  # for dropout
    return [Epoch(loss, valid and Score(*valid)) for loss, valid in state["history"]], state["best"]


def _keep(
    checkpoint: Checkpoint, changing: dict[str, Any], history: Sequence[Epoch], best: int
) -> None:
    state = {name: part.state_dict() for name, part in changing.items()}
    told = [astuple(epoch) for epoch in history]
    checkpoint.write({**state, "chance": torch.get_rng_state(), "history": told, "best": best})


def _loss(epoch: Epoch) -> float:
    return epoch.valid.loss if epoch.valid else math.inf


def _describe(epoch: Epoch) -> str:
    text = f"loss {epoch.loss:.3f}"
    if epoch.valid:
        text += f", valid {epoch.valid.loss:.3f}, accuracy {epoch.valid.accuracy:.3f}"
    return text
