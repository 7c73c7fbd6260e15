"""Augmentation: what might have been recorded instead, by another voice, room or microphone.

A waveform is resampled, once, to a few other speeds; each epoch then warps, colours, buries in
noise and masks the log-mel spectrograms anew.
"""

import math
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far each change goes at most; 0 is none. Levels are in ln(power): 1 is 4.3 dB."""

    shift: float  # of the whole duration, to either side
    stretch: float  # of the word's duration
    formants: float  # of the mel axis, shifted and stretched: the length of the vocal tract
    colour: float  # level that the microphone and the room add or take, smooth over frequency
    noise: float  # share of takes that get noise
    noise_below_peak: tuple[float, float]  # how far the noise stays under the loudest point
    mask_bands: float  # of all bands
    mask_frames: float  # of all frames


def change_speed(wave: Floats, factor: float, rate: int) -> Floats:
    """As if played that much faster: shorter, and pitch and formants higher by the same factor."""
    if factor == 1:
        return wave
    changed: Floats = soxr.resample(wave, rate * factor, rate)
    return changed


def augment(spectrograms: Tensor, how: Augmentation, silence: float, random: Generator) -> Tensor:
    """A batch of log-mel spectrograms, each changed in its own way; the input stays as it is.

    Args:
        spectrograms: float32[n, bands, frames], ln(power).
        silence: the ln(power) of digital silence.
    """
    changed = _warp(spectrograms - silence, how, random) + silence
    changed = _colour(changed, how, random)
    changed = _add_noise(changed, how, random)
    changed = _mask(changed, 1, how.mask_bands, silence, random)
    return _mask(changed, 2, how.mask_frames, silence, random)


def _warp(levels: Tensor, how: Augmentation, random: Generator) -> Tensor:
    """Move and stretch along time and the mel axis; zeros come in from outside."""
    count, bands, frames = levels.shape
    affine = torch.zeros(count, 2, 3)  # coordinates run from -1 to 1: a length is 2
    affine[:, 0, 0] = 1 + _between(-how.stretch, how.stretch, count, random)
    affine[:, 0, 2] = 2 * _between(-how.shift, how.shift, count, random)
    affine[:, 1, 1] = 1 + _between(-how.formants, how.formants, count, random)
    affine[:, 1, 2] = _between(-how.formants, how.formants, count, random)
    grid = functional.affine_grid(affine, [count, 1, bands, frames], align_corners=False)
    return functional.grid_sample(levels.unsqueeze(1), grid, align_corners=False).squeeze(1)


def _colour(spectrograms: Tensor, how: Augmentation, random: Generator) -> Tensor:
    """Tilt the spectrum, and add a wave of random length and phase to it."""
    count, bands, _ = spectrograms.shape
    place = torch.linspace(-1, 1, bands)
    tilt = _between(-how.colour, how.colour, (count, 1), random)
    height = _between(-how.colour, how.colour, (count, 1), random)
    pace = _between(0.5, 2, (count, 1), random)
    phase = _between(0, 2, (count, 1), random)
    gains = tilt * place + height * torch.cos(math.pi * (pace * place + phase))  # [n, bands]
    return spectrograms + gains.unsqueeze(2)


def _add_noise(spectrograms: Tensor, how: Augmentation, random: Generator) -> Tensor:
    """Powers add: noise of a random level, tilted towards the low bands as most noise is."""
    count, bands, _ = spectrograms.shape
    below = _between(*how.noise_below_peak, count, random)
    level = spectrograms.amax((1, 2)) - below  # [n]
    tilt = _between(-1, 2, (count, 1), random) * torch.linspace(1, -1, bands)  # [n, bands]
    # The power of a band of white noise scatters about its mean like a sum of exponentials.
    scatter = (0.5 + 0.5 * torch.empty_like(spectrograms).exponential_(generator=random)).log()
    noise = level[:, None, None] + tilt[:, :, None] + scatter
    chosen = torch.rand(count, generator=random) < how.noise
    return torch.where(chosen[:, None, None], torch.logaddexp(spectrograms, noise), spectrograms)


def _mask(
    spectrograms: Tensor, axis: int, share: float, silence: float, random: Generator
) -> Tensor:
    """Silence a stripe of random width and place: no single band or moment may be relied on.

    Source: D. Park et al., SpecAugment (2019).
    """
    count, size = len(spectrograms), spectrograms.shape[axis]
    width = _between(0, share * size, (count, 1), random)
    start = torch.rand((count, 1), generator=random) * (size - width)
    place = torch.arange(size)
    stripe = (place >= start) & (place < start + width)  # [n, size]
    return spectrograms.masked_fill(stripe.unsqueeze(3 - axis), silence)


def _between(low: float, high: float, shape: int | tuple[int, ...], random: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=random)
