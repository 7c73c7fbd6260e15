"""The classifier of a head: one hidden layer between an encoder's vector and the labels."""

from torch import Tensor, nn

DROPOUT = 0.2  # no feature may be relied on alone
# Of the features' mean deviation. One that hardly changes in training says nothing, and divided by
# its own deviation it would drown the others in the first picture where it does change.
SMALLEST_STD = 0.1


class Classifier(nn.Module):
    """Linear, ReLU, Dropout, Linear, LogSoftmax, on vectors that it standardises by itself."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, vectors: Tensor, hidden: int, classes: int, dropout: float = DROPOUT
    ) -> None:
        """Args:
        vectors: float32[n, width] that it will be trained on: their mean and deviation are kept.
        """
        super().__init__()
        width = vectors.shape[1]
        self.register_buffer("mean", vectors.mean(dim=0))
        std = vectors.std(dim=0, correction=0)
        self.register_buffer("std", std.clamp(min=max(SMALLEST_STD * std.mean().item(), 1e-6)))
        self.hidden = nn.Linear(width, hidden)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, classes)
        self.logsoftmax = nn.LogSoftmax(dim=1)

    def forward(self, vector: Tensor) -> Tensor:
        """float32[N, width] -> log-probabilities: float32[N, classes]."""
        x = (vector - self.mean) / self.std
        x = self.relu(self.hidden(x))
        x = self.output(self.dropout(x))
        log_probabilities: Tensor = self.logsoftmax(x)
        return log_probabilities
