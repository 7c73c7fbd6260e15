"""Scores: accuracy, F1 and calibration of answers, and the temperature."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.measures import accuracy, calibration_error, macro_f1

TEMPERATURES = (0.25, 4.0)  # limits for small splits without errors
STEPS = 200


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one split, all between 0 and 1."""

    accuracy: float
    macro_f1: float  # the unweighted mean over classes
    calibration_error: float  # mean difference of confidence and accuracy, weighted by items


def score(log_probabilities: Tensor, labels: Tensor) -> Scores:
    """Args:
    log_probabilities: float32[n, classes].
    labels: int64[n].
    """
    confidence, given = (values.numpy() for values in log_probabilities.exp().max(dim=1))
    right = labels.numpy()
    return Scores(
        accuracy=accuracy(right, given),
        macro_f1=macro_f1(right, given),
        calibration_error=calibration_error(right == given, confidence),
    )


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """The temperature with the least negative log-likelihood.

    Dividing log-probabilities by it calibrates the confidence and keeps the order of the labels.

    Args:
        log_probabilities: float32[n, classes] of items that were not trained on.
        labels: int64[n].
    """
    low, high = (torch.tensor(bound).log() for bound in TEMPERATURES)
    candidates = torch.linspace(float(low), float(high), STEPS).exp()
    losses = [functional.cross_entropy(log_probabilities / t, labels) for t in candidates]
    return candidates[int(torch.stack(losses).argmin())].item()


def divide_scores(network: nn.Module, temperature: float) -> None:
    """Divide the scores of the network's last Linear by the temperature."""
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        for weights in last.parameters():
            weights.div_(temperature)
