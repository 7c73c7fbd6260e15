"""EfficientNet-Lite: a picture becomes 1,000 class scores and a vector of 1,280 features.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019. The
Lite variant has no squeeze-and-excitation, and ReLU6 in place of swish, so that it suits CPUs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WIDTH = 1280  # of the vector
CLASSES = 1000

# The weights were trained with TensorFlow: its range of pixels and its BatchNorm's epsilon.
PIXEL_MEAN, PIXEL_STD = 127.0, 128.0
EPSILON = 1e-3

# kernel, stride of the first block, expansion
STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
STEM = 32


@dataclass(frozen=True, slots=True)
class Variant:
    """How large a network of the family is."""

    size: int  # pixels, height and width
    repeats: tuple[int, ...]  # blocks of each stage
    channels: tuple[int, ...]  # that come out of it


LITE0 = Variant(224, (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320))
LITE2 = Variant(260, (1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352))


class EfficientNetLite(nn.Module):
    """uint8[N, size, size, 3] -> logits float32[N, 1000], vector float32[N, 1280]."""

    def __init__(self, variant: Variant = LITE0) -> None:
        super().__init__()
        self.conv_stem = SameConv(3, STEM, kernel=3, stride=2, size=variant.size)
        self.bn0 = nn.BatchNorm2d(STEM, eps=EPSILON)
        blocks, channels, size = [], STEM, halve(variant.size)
        stages = zip(STAGES, variant.repeats, variant.channels, strict=True)
        for (kernel, first_stride, expansion), repeats, out in stages:
            for repeat in range(repeats):
                stride = 1 if repeat else first_stride
                blocks.append(Block(channels, out, kernel, stride, expansion, size))
                channels, size = out, size if stride == 1 else halve(size)
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = SameConv(channels, WIDTH)
        self.bn1 = nn.BatchNorm2d(WIDTH, eps=EPSILON)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = (pixels.permute(0, 3, 1, 2).float() - PIXEL_MEAN) / PIXEL_STD  # [N, 3, size, size]
        x = relu6(self.bn0(self.conv_stem(x)))  # [N, 32, size / 2, size / 2]
        for block in self.blocks:
            x = block(x)
        x = relu6(self.bn1(self.conv_head(x)))  # [N, 1280, size / 32, size / 32]
        vector = x.mean(dim=(2, 3))
        return self.fc(vector), vector

    def stages(self) -> list[list[nn.Parameter]]:
        """What makes the vector, in the order in which a picture passes it."""
        return [
            [*self.conv_stem.parameters(), *self.bn0.parameters()],
            *([*block.parameters()] for block in self.blocks),
            [*self.conv_head.parameters(), *self.bn1.parameters()],
        ]


class Block(nn.Module):
    """Widen, look around in each channel by itself, narrow; a shortcut where the shape stays."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int, expansion: int, size: int
    ) -> None:
        super().__init__()
        wide = channels * expansion
        self.widens = expansion > 1
        self.shortcut = stride == 1 and channels == out
        if self.widens:
            self.expand_conv = SameConv(channels, wide)
            self.bn0 = nn.BatchNorm2d(wide, eps=EPSILON)
        self.depthwise_conv = SameConv(wide, wide, kernel, stride, wide, size)
        self.bn1 = nn.BatchNorm2d(wide, eps=EPSILON)
        self.project_conv = SameConv(wide, out)
        self.bn2 = nn.BatchNorm2d(out, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        y = relu6(self.bn0(self.expand_conv(x))) if self.widens else x
        y = relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        out: Tensor = x + y if self.shortcut else y
        return out


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME" does: the odd pixel goes right and below."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        size: int = 1,
    ) -> None:
        """Args:
        size: pixels, of what comes in: an odd one is padded more at a stride of 2.
        """
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)
        padding = kernel - (stride if size % stride == 0 else 1)
        before = padding // 2
        after = padding - before
        self.pad = nn.ZeroPad2d((before, after, before, after))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.pad(x))


def halve(size: int) -> int:
    """What a stride of 2 leaves."""
    return (size + 1) // 2


def relu6(x: Tensor) -> Tensor:
    return torch.clamp(x, 0, 6)


def rename_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published names with their leading underscores taken off: `_blocks.0._bn1.weight`."""
    return {re.sub(r"(^|\.)_", r"\1", name): tensor for name, tensor in published.items()}
