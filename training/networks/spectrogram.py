"""A small convolutional network that tells short sounds apart by their log-mel spectrogram."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.networks.image import convolve

# Edges first, then formants, then how they move: more filters as the picture gets smaller.
FILTERS = (24, 32, 48, 64)
SHRINKAGE = 8  # of the bands, by the convolutions; frames shrink by 4, so that plosives stay
# Nine of the frames that are left are 0.36 s: most of a word, so that "two" differs from "zero".
CONTEXT = 9
WIDTH = 96
HIDDEN = 128
DROPOUT = 0.2
# In ln(power) below the loudest point, 43 dB: what is fainter is background.
DYNAMIC_RANGE = 10.0


class SpectrogramNet(nn.Module):
    """Convolutions over the picture, then over time, and a classifier of two layers.

    The input is taken relative to its own loudest point, so that neither the gain of the
    recording nor the silence around the word matters: silence becomes zero, as the
    convolutions' own padding is.
    """

    def __init__(
        self,
        classes: int,
        bands: int,
        filters: Sequence[int] = FILTERS,
        hidden: int = HIDDEN,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__()
        first, second, third, fourth = filters
        self.convolutions = nn.Sequential(
            convolve(1, first, stride=2),
            convolve(first, second),
            nn.MaxPool2d((2, 1)),
            convolve(second, third),
            nn.MaxPool2d(2),
            convolve(third, fourth),
        )
        height = fourth * (bands // SHRINKAGE)
        self.time = nn.Sequential(
            nn.Dropout1d(dropout),  # of whole rows: no formant may be relied on alone
            nn.Conv1d(height, WIDTH, CONTEXT, padding=CONTEXT // 2, bias=False),
            nn.BatchNorm1d(WIDTH),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Linear(2 * WIDTH, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
            nn.LogSoftmax(dim=1),
        )
        _put_channels_last(self.convolutions)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """float32[N, bands, frames] of ln(power) -> log-probabilities: float32[N, classes]."""
        maps = self.convolutions(_relative_level(spectrogram).unsqueeze(1))  # [N, C, b/8, f/4]
        moments = self.time(maps.flatten(1, 2))  # [N, width, f/4]
        pooled = torch.cat([moments.mean(dim=2), moments.amax(dim=2)], dim=1)  # [N, 2 * width]
        log_probabilities: Tensor = self.head(pooled)
        return log_probabilities


def _relative_level(spectrogram: Tensor) -> Tensor:
    """ln(power) -> 1 at the loudest point, 0 at `DYNAMIC_RANGE` below it and fainter."""
    loudest = spectrogram.amax(dim=(1, 2), keepdim=True)
    return (1 + (spectrogram - loudest) / DYNAMIC_RANGE).clamp(min=0)


def _put_channels_last(network: nn.Module) -> None:
    """Lay the filters out so that the convolutions take half the time on a CPU."""
    for weights in network.parameters():
        if weights.dim() == 4:
            weights.data = weights.data.contiguous(memory_format=torch.channels_last)
