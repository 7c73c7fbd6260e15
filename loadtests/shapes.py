"""Shapes: how many callers come a second, in the course of a run."""

import math
from collections.abc import Callable, Iterator
from random import Random

STAIRS = 4
WAVES = 2
CALM = 0.2  # of the peak: around a spike, and between two waves

Shape = Callable[[float], float]  # the share of the run that is over -> the share of the peak


def step(over: float) -> float:
    """Four stairs, the last at the peak: from which rate on is it too much?"""
    return (1 + int(STAIRS * over)) / STAIRS


def spike(over: float) -> float:
    """Calm, the peak at once for a fifth of the run, calm again: does it recover?"""
    return 1.0 if 0.4 <= over < 0.6 else CALM


def sine(over: float) -> float:
    """Two waves between calm and the peak, as days come and go."""
    return CALM + (1 - CALM) * (1 - math.cos(2 * math.pi * WAVES * over)) / 2


def soak(_: float) -> float:
    """The peak from beginning to end: over hours, what leaks?"""
    return 1.0


SHAPES: dict[str, Shape] = {shape.__name__: shape for shape in (step, spike, sine, soak)}


def arrivals(shape: Shape, peak: float, seconds: float, random: Random) -> Iterator[float]:
    """When callers come, in seconds after the start: at random, as those do who know nothing of
    each other (a Poisson process).

    Several processes of this kind together are again one, at the sum of their rates, so Locust's
    workers need not know of each other. Callers are drawn at the peak's rate, and as many of them
    left out as the shape says (thinning, after Lewis and Shedler).
    """
    time = random.expovariate(peak)
    while time < seconds:
        if random.random() < shape(time / seconds):
            yield time
        time += random.expovariate(peak)
