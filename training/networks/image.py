"""A small convolutional network that learns pictures from nothing: edges, textures, parts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FILTERS = (32, 64, 128, 256)  # twice as many each time that the picture has half the sides
HIDDEN = 128
DROPOUT = 0.2


class PixelNet(nn.Module):
    """uint8[N, H, W, 3] -> log-probabilities: float32[N, classes]; sides are multiples of 8.

    Two convolutions a stage, with a shortcut past the second (He et al., "Deep Residual Learning
    for Image Recognition", 2015).
    """

    def __init__(
        self,
        classes: int,
        filters: Sequence[int] = FILTERS,
        hidden: int = HIDDEN,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__()
        stages, channels = [], 3
        for number, wanted in enumerate(filters):
            stages.append(Stage(channels, wanted, stride=2 if number else 1))
            channels = wanted
        self.stages = nn.ModuleList(stages)
        self.head = nn.Sequential(
            nn.Linear(2 * channels, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
            nn.LogSoftmax(dim=1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1  # [N, 3, H, W], -1..1
        for stage in self.stages:
            x = stage(x)
        pooled = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        log_probabilities: Tensor = self.head(pooled)
        return log_probabilities


class Stage(nn.Module):
    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.enter = convolve(channels, filters, stride)
        self.refine = convolve(filters, filters)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        refined: Tensor = x + self.refine(x)
        return refined


def convolve(channels: int, filters: int, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU; half the sides at a stride of 2."""
    return nn.Sequential(
        nn.Conv2d(channels, filters, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
    )
