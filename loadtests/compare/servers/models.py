"""Three models as a team would serve them: Pillow, tokenizers, soundfile, numpy, onnxruntime.

The same pixels, tokens and spectrograms as Sensorium's, written without it.
"""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnxruntime
import soundfile
import soxr
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tokenizers import Tokenizer

FOLDER = Path(os.environ.get("COMPARE_MODELS", "models"))
PRECISION = os.environ.get("COMPARE_PRECISION", "fp32")
THREADS = int(os.environ.get("COMPARE_THREADS", "0"))  # 0: as onnxruntime chooses
TOP = 5

Array = NDArray[Any]
Answer = dict[str, Any]  # {"labels": [{"label", "score"}, ...]} or {"vector": [...]}
File = BinaryIO | Path


class Model:
    """One graph, with what must be done to its inputs and outputs."""

    name: str
    output: str

    def __init__(self, precision: str = PRECISION) -> None:
        self.folder = FOLDER / self.name / "1"
        smaller = self.folder / f"model.{precision}.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.session = onnxruntime.InferenceSession(
            str(smaller if smaller.exists() else self.folder / "model.onnx"),
            options,
            providers=["CPUExecutionProvider"],
        )

    def decode(self, file: File) -> Array:
        """One file as the graph takes it, without the batch dimension."""
        raise NotImplementedError

    def collate(self, samples: Sequence[Array]) -> dict[str, Array]:
        return {self.session.get_inputs()[0].name: np.stack(samples)}

    def interpret(self, row: Array) -> Answer:
        raise NotImplementedError

    def predict(self, samples: Sequence[Array]) -> list[Answer]:
        """One batch: an answer for each sample, in order."""
        [rows] = self.session.run([self.output], self.collate(samples))
        return [self.interpret(row) for row in rows]

    def answer(self, payload: bytes) -> Answer:
        return self.predict([self.decode(BytesIO(payload))])[0]


class Classifier(Model):
    """A model whose rows are scores of labels."""

    def __init__(self, precision: str = PRECISION) -> None:
        super().__init__(precision)
        self.labels = (self.folder / "labels.txt").read_text(encoding="utf-8").splitlines()

    def interpret(self, row: Array) -> Answer:
        powers = np.exp(row - row.max())  # of logits, or of their logarithms: softmax is the same
        scores = powers / powers.sum()
        best = np.argsort(-scores)[:TOP]
        return {"labels": [{"label": self.labels[i], "score": float(scores[i])} for i in best]}


class Photos(Classifier):
    """EfficientNet-Lite0: the middle 7/8 of a picture, at 224 x 224; normalised in the graph."""

    name = "efficientnet-lite0"
    output = "logits"
    side = 224
    kept = 0.875

    def decode(self, file: File) -> Array:
        with Image.open(file) as picture:
            return self.pixels(picture)

    def pixels(self, picture: Image.Image) -> Array:
        """uint8[224, 224, 3]"""
        upright = ImageOps.exif_transpose(picture).convert("RGB")
        left, top = ((length - min(upright.size) * self.kept) / 2 for length in upright.size)
        box = (left, top, upright.width - left, upright.height - top)
        return np.asarray(upright.resize((self.side, self.side), Image.Resampling.BICUBIC, box))


class Texts(Model):
    """all-MiniLM-L6-v2: token ids, padded to the longest of the batch."""

    name = "all-minilm-l6-v2"
    output = "vector"

    def __init__(self, precision: str = PRECISION) -> None:
        super().__init__(precision)
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.no_padding()

    def decode(self, file: File) -> Array:
        content = file.read_bytes() if isinstance(file, Path) else file.read()
        return self.tokens(content.decode())

    def tokens(self, text: str) -> Array:
        """int64[tokens]"""
        return np.array(self.tokenizer.encode(text).ids, np.int64)

    def collate(self, samples: Sequence[Array]) -> dict[str, Array]:
        lengths = np.array([len(sample) for sample in samples])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = np.zeros_like(mask)  # 0 is [PAD]
        ids[mask == 1] = np.concatenate(samples)
        return {"input_ids": ids, "attention_mask": mask}

    def interpret(self, row: Array) -> Answer:
        return {"vector": row.tolist()}


class Digits(Classifier):
    """spoken-digits: the log-mel spectrogram of the middle second."""

    name = "spoken-digits"
    output = "log_probabilities"
    rate = 16_000
    window, hop, bands = 512, 160, 40
    lowest, highest = 80.0, 3800.0  # Hz

    def __init__(self, precision: str = PRECISION) -> None:
        super().__init__(precision)
        self.filters = self._triangles()
        self.bell = np.hanning(self.window + 1)[:-1].astype(np.float32)

    def decode(self, file: File) -> Array:
        """float32[bands, frames]"""
        channels, rate = soundfile.read(file, dtype="float32", always_2d=True)
        start = max(0, len(channels) - rate) // 2
        middle = channels[start : start + rate].mean(axis=1)
        wave = soxr.resample(middle, rate, self.rate).clip(-1, 1)[: self.rate]
        padded = np.pad(wave, (0, self.rate - len(wave)))
        mirrored = np.pad(padded, self.window // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(mirrored, self.window)[:: self.hop]
        power = np.abs(np.fft.rfft(frames * self.bell)).astype(np.float32) ** 2
        spectrogram: Array = np.log(self.filters @ power.T + np.float32(1e-8))
        return spectrogram

    def _triangles(self) -> Array:
        """Slaney's mel filters, each of area 1: float32[bands, bins]"""
        # Linear to 1 kHz, which is mel 15; above it, 27 mels for a factor of 6.4.
        lowest = self.lowest * 3 / 200
        highest = 15 + 27 * np.log(self.highest / 1000) / np.log(6.4)
        steps = np.linspace(lowest, highest, self.bands + 2)
        edges = np.where(steps <= 15, steps * 200 / 3, 1000 * 6.4 ** ((steps - 15) / 27))
        bins = np.fft.rfftfreq(self.window, 1 / self.rate)
        rows = [
            np.interp(bins, edges[i : i + 3], [0, 2 / (edges[i + 2] - edges[i]), 0])
            for i in range(self.bands)
        ]
        return np.array(rows, np.float32)


ALL: dict[str, type[Model]] = {"photo": Photos, "text": Texts, "digit": Digits}
