"""How good answers are, and how honest: accuracy, F1, calibration, and the temperature."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BINS = 15  # of confidence, as in Guo et al. (arXiv 1706.04599)
TEMPERATURES = (0.25, 4.0)  # beyond it a small split that is answered too well would lead
STEPS = 200


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one split, all between 0 and 1."""

    accuracy: float
    macro_f1: float  # the mean over classes, the rare counting as much as the common
    calibration_error: float  # how far confidence and accuracy lie apart, weighted by items


def score(log_probabilities: Tensor, labels: Tensor) -> Scores:
    """Args:
    log_probabilities: float32[n, classes].
    labels: int64[n].
    """
    given = log_probabilities.argmax(dim=1)
    return Scores(
        accuracy=(given == labels).float().mean().item(),
        macro_f1=_macro_f1(given, labels),
        calibration_error=_calibration_error(log_probabilities, labels),
    )


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """What to divide log-probabilities by so that confidence is as honest as it can be.

    The one with the least negative log-likelihood; the order of the answers stays the same.

    Args:
        log_probabilities: float32[n, classes] of items that were not trained on.
        labels: int64[n].
    """
    low, high = (torch.tensor(bound).log() for bound in TEMPERATURES)
    candidates = torch.linspace(float(low), float(high), STEPS).exp()
    losses = [functional.cross_entropy(log_probabilities / t, labels) for t in candidates]
    return candidates[int(torch.stack(losses).argmin())].item()


def _macro_f1(given: Tensor, labels: Tensor) -> float:
    """Over the classes that occur, be it as a label or as an answer."""
    values = []
    for name in torch.unique(torch.cat([given, labels])):
        both = ((given == name) & (labels == name)).sum()
        either = (given == name).sum() + (labels == name).sum()
        values.append(2 * both / either)
    return torch.stack(values).mean().item()


def _calibration_error(log_probabilities: Tensor, labels: Tensor) -> float:
    confidence, given = log_probabilities.exp().max(dim=1)
    right = (given == labels).float()
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    error = 0.0
    for number in torch.unique(bins):
        inside = bins == number
        gap = confidence[inside].mean() - right[inside].mean()
        error += inside.float().mean().item() * abs(gap.item())
    return error
