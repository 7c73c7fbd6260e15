"""Image augmentation: mirrored, enlarged, off-centre, in other light."""

import argparse
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional

from training.flags import share
from training.material import Augment, Inputs

NEARER = 0.3  # of the sides: at least 0.7 stay in the frame
LIGHT = 0.2  # brightness and contrast, up or down


def add_variation(parser: argparse.ArgumentParser) -> None:
    """The flags of the augmentation of images."""
    add = parser.add_argument_group("augmentation; 0 is none").add_argument
    add("--mirror", action=argparse.BooleanOptionalAction, default=True,
        help="mirror half of the images; turn off if left and right matter")  # fmt: skip
    add("--zoom", type=share, default=NEARER, help="share of the sides cut off (%(default)s)")
    add("--light", type=share, default=LIGHT, help="brightness and contrast (%(default)s)")


def read_variation(args: argparse.Namespace) -> Augment:
    """The augmentation by the flags of `add_variation`."""
    return partial(vary_images, mirror=args.mirror, zoom=args.zoom, light=args.light)


def vary_images(
    inputs: Inputs,
    random: Generator,
    *,
    mirror: bool = True,
    zoom: float = NEARER,
    light: float = LIGHT,
) -> Inputs:
    """Change each image in its own way: uint8[n, H, W, 3] -> the same."""
    [pixels] = inputs
    count = len(pixels)
    kept = 1 - zoom * torch.rand(count, generator=random)
    mirrored = torch.randint(2, (count,), generator=random) * 2 - 1 if mirror else 1
    affine = torch.zeros(count, 2, 3)  # coordinates run from -1 to 1
    affine[:, 0, 0], affine[:, 1, 1] = kept * mirrored, kept
    affine[:, :, 2] = (1 - kept).unsqueeze(1) * _between(count, 2, random)
    channels = pixels.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(affine, list(channels.shape), align_corners=False)
    moved = functional.grid_sample(channels, grid, padding_mode="reflection", align_corners=False)
    contrast, brightness = (1 + light * _between(count, 2, random)).T[:, :, None, None, None]
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    lit = ((moved - mean) * contrast + mean * brightness).clamp(0, 255).round()
    return (lit.to(torch.uint8).permute(0, 2, 3, 1).contiguous(),)


def _between(count: int, width: int, random: Generator) -> Tensor:
    """float32[count, width] from -1 to 1."""
    return 2 * torch.rand((count, width), generator=random) - 1
