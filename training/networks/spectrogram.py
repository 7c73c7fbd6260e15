"""A small convolutional network that tells short sounds apart by their log-mel spectrogram."""

import torch
from torch import Tensor, nn

# Convolutions see edges, then formants, then their movement: wider as the picture shrinks.
CHANNELS = (24, 32, 48, 64)
HIDDEN = 128
DROPOUT = 0.2
# Of ln(power) below the loudest point, about 43 dB: what is fainter is background.
DYNAMIC_RANGE = 10.0


class SpectrogramNet(nn.Module):
    """Convolutions, pooling over the whole picture, and a classifier of two layers.

    The input is taken relative to its own loudest point, so that neither the gain of the
    recording nor the silence around the word matters: both end at zero, as does the
    convolutions' own padding.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        first, second, third, fourth = CHANNELS
        self.convolutions = nn.Sequential(
            _convolve(1, first, stride=2),
            _convolve(first, second),
            nn.MaxPool2d(2),
            _convolve(second, third),
            nn.MaxPool2d(2),
            _convolve(third, fourth),
        )
        self.head = nn.Sequential(
            nn.Linear(2 * fourth, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, classes),
            nn.LogSoftmax(dim=1),
        )

    def forward(self, spectrogram: Tensor) -> Tensor:
        """float32[N, bands, frames] in ln(power) -> log-probabilities: float32[N, classes]."""
        picture = _relative_level(spectrogram).unsqueeze(1)  # [N, 1, bands, frames]
        maps = self.convolutions(picture)  # [N, channels, bands / 8, frames / 8]
        pooled = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)  # [N, 2 * channels]
        log_probabilities: Tensor = self.head(pooled)
        return log_probabilities


def _convolve(channels: int, filters: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, filters, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
    )


def _relative_level(spectrogram: Tensor) -> Tensor:
    """ln(power) -> 1 at the loudest point, 0 at `DYNAMIC_RANGE` below it and fainter."""
    loudest = spectrogram.amax((1, 2), keepdim=True)
    return (1 + (spectrogram - loudest) / DYNAMIC_RANGE).clamp(min=0)
