"""The learning rate is chosen by a sweep."""

import pytest
import torch
from torch import Tensor

from training.balance import BalancedBatches
from training.finder import HIGHEST, LOWEST, NoLearningRate, find_learning_rate
from training.networks.classifier import Classifier


def two_clouds(count: int = 200) -> tuple[Tensor, Tensor]:
    """float32[count, 4] around one of two centres, and which."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    return torch.randn(count, 4, generator=random) + 3 * labels.unsqueeze(1), labels


def batches() -> BalancedBatches:
    return BalancedBatches(*two_clouds(), size=20, balance=0.5, seed=0)


def test_the_choice_lies_where_the_loss_falls_and_the_network_stays_as_it_was() -> None:
    torch.manual_seed(0)
    network = Classifier(two_clouds()[0], hidden=8, classes=2)
    before = [weights.clone() for weights in network.parameters()]
    sweep = find_learning_rate(network, batches(), 0.01, 0.0)
    assert LOWEST < sweep.chosen < HIGHEST / 2
    assert min(sweep.losses) < sweep.losses[0]
    assert len(sweep.rates) == len(sweep.losses)
    assert all(map(torch.equal, before, network.parameters()))


def test_data_that_nothing_can_be_learned_from_are_named() -> None:
    network = Classifier(torch.zeros(4, 4), hidden=8, classes=2)
    nothing = BalancedBatches(
        torch.full((4, 4), torch.nan), torch.tensor([0, 1, 0, 1]), size=2, balance=0, seed=0
    )
    with pytest.raises(NoLearningRate, match="--lr"):
        find_learning_rate(network, nothing, 0.01, 0.0)


def test_rare_classes_are_drawn_more_often_and_equal_ones_once_each() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    items = torch.arange(100.0).unsqueeze(1)

    def drawn(balance: float) -> Tensor:
        epochs = BalancedBatches(items, labels, size=100, balance=balance, seed=0)
        return next(iter(epochs.epoch()))[0].flatten().long()

    assert drawn(0).sort().values.tolist() == list(range(100))
    assert (labels[drawn(0.5)] == 1).sum().item() == pytest.approx(25, abs=1)
    assert (labels[drawn(1)] == 1).sum().item() == pytest.approx(50, abs=1)
