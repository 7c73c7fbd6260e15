"""The learning rate is chosen by a sweep."""

import pytest
import torch
from torch import Tensor

from training.finder import HIGHEST, LOWEST, NoLearningRate, find_learning_rate
from training.loop import Schedule
from training.material import Batches
from training.networks.classifier import Classifier

SCHEDULE = Schedule(1, 0.0, weight_decay=0.01, label_smoothing=0.0, patience=1)


def two_clouds(count: int = 200) -> tuple[Tensor, Tensor]:
    """float32[count, 4] around one of two centres, and which."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    return torch.randn(count, 4, generator=random) + 3 * labels.unsqueeze(1), labels


def batches(inputs: Tensor, labels: Tensor, size: int = 20, balance: float = 0.5) -> Batches:
    return Batches(labels, size, lambda places, _: (inputs[places],), seed=0, balance=balance)


def test_the_choice_lies_where_the_loss_falls_and_the_network_stays_as_it_was() -> None:
    torch.manual_seed(0)
    network = Classifier(two_clouds()[0], hidden=8, classes=2)
    before = [weights.clone() for weights in network.parameters()]
    sweep = find_learning_rate(network, batches(*two_clouds()), SCHEDULE)
    assert LOWEST < sweep.chosen < HIGHEST / 2
    assert min(sweep.losses) < sweep.losses[0]
    assert len(sweep.rates) == len(sweep.losses)
    assert all(map(torch.equal, before, network.parameters()))


def test_data_that_nothing_can_be_learned_from_are_named() -> None:
    network = Classifier(torch.zeros(4, 4), hidden=8, classes=2)
    nothing = batches(torch.full((4, 4), torch.nan), torch.tensor([0, 1, 0, 1]), size=2)
    with pytest.raises(NoLearningRate, match="--lr"):
        find_learning_rate(network, nothing, SCHEDULE)


def test_rare_classes_are_drawn_more_often_and_equal_ones_once_each() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    items = torch.arange(100.0).unsqueeze(1)

    def drawn(balance: float) -> Tensor:
        [([inputs], _)] = batches(items, labels, size=100, balance=balance).epoch()
        return inputs.flatten().long()

    assert drawn(0).sort().values.tolist() == list(range(100))
    assert (labels[drawn(0.5)] == 1).sum().item() == pytest.approx(25, abs=1)
    assert (labels[drawn(1)] == 1).sum().item() == pytest.approx(50, abs=1)
