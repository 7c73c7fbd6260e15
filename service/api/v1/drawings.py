"""Pictures: arrays drawn for people, as PNG."""

import io

import numpy as np
from PIL import Image

from service.model.manifest import AudioPreprocessing
from service.model.meaning import Floats
from service.runtime.tensors import Array


def encode(pixels: Array) -> bytes:
    """uint8[H, W, 3] -> a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def draw_audio(wave: Floats, features: Floats, spec: AudioPreprocessing) -> bytes:
    """Waveform and, where the model takes one, log-mel spectrogram over seconds: a PNG file."""
    from matplotlib.figure import Figure  # takes a quarter of a second, so not at every start

    seconds = len(wave) / spec.sample_rate
    figure = Figure(figsize=(8, 6 if spec.log_mel else 3), layout="constrained")
    if spec.log_mel:
        above, below = figure.subplots(2, 1, sharex=True)
        mesh = below.imshow(
            features, origin="lower", aspect="auto", extent=(0, seconds, 0, len(features))
        )
        below.set(
            xlabel="time in s",
            ylabel=f"mel band, {spec.log_mel.low_hz:.0f} to {spec.log_mel.high_hz:.0f} Hz",
        )
        figure.colorbar(mesh, ax=below, label="log energy, as the model takes it")
    else:
        above = figure.subplots()
        above.set_xlabel("time in s")
    above.plot(np.arange(len(wave)) / spec.sample_rate, wave, linewidth=0.6)
    above.set(ylabel="amplitude", ylim=(-1, 1), title=f"{spec.sample_rate} Hz, mono")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
