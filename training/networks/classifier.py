"""The classifier of a head: one hidden layer between an encoder's vector and the labels."""

from torch import Tensor, nn

DROPOUT = 0.2  # no feature may be relied on alone
SMALLEST_STD = 1e-6  # a feature that never changes says nothing, and must not be divided by 0


class Classifier(nn.Module):
    """Linear, ReLU, Dropout, Linear, LogSoftmax, on vectors that it standardises by itself."""

    mean: Tensor
    std: Tensor

    def __init__(self, vectors: Tensor, hidden: int, classes: int) -> None:
        """Args:
        vectors: float32[n, width] that it will be trained on: their mean and deviation are kept.
        """
        super().__init__()
        width = vectors.shape[1]
        self.register_buffer("mean", vectors.mean(dim=0))
        self.register_buffer("std", vectors.std(dim=0, correction=0).clamp(min=SMALLEST_STD))
        self.hidden = nn.Linear(width, hidden)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(DROPOUT)
        self.output = nn.Linear(hidden, classes)
        self.logsoftmax = nn.LogSoftmax(dim=1)

    def forward(self, vector: Tensor) -> Tensor:
        """float32[N, width] -> log-probabilities: float32[N, classes]."""
        x = (vector - self.mean) / self.std
        x = self.relu(self.hidden(x))
        x = self.output(self.dropout(x))
        log_probabilities: Tensor = self.logsoftmax(x)
        return log_probabilities
