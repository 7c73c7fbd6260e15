"""Text: a string becomes token ids, never longer than the model can read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from service.errors import BadModel, TooLarge, Unreadable
from service.limits import InputLimits
from service.manifest import TextPreprocessing
from service.preprocessing.sample import Array, Sample, TensorSpec


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its id, how the vocabulary writes it, and its [start, end) in the text."""

    id: int
    token: str
    start: int
    end: int


class TextPreprocessor:
    """Tokenise, truncate; pad to the longest of the batch."""

    quick_bytes = 500  # 0.1 to 0.2 ms; to hand it to a thread and back takes 0.05 to 0.1

    def __init__(self, spec: TextPreprocessing, folder: Path, limits: InputLimits) -> None:
        self.spec = spec
        self._limits = limits
        path = folder / spec.tokenizer
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception
            raise BadModel(f"{path}: preprocessing.tokenizer: cannot be read: {error}") from error
        self._tokenizer.enable_truncation(spec.max_length)
        self._tokenizer.no_padding()
        pad = self._tokenizer.token_to_id(spec.pad_token)
        if pad is None:
            raise BadModel(f"{path}: preprocessing.pad_token: {spec.pad_token} is not a token")
        self._pad: int = pad

    def inputs(self) -> dict[str, TensorSpec]:
        return {name: TensorSpec("int64", (None, None)) for name in self.spec.inputs}

    def decode(self, payload: bytes) -> Sample:
        """One UTF-8 text as int64[tokens]."""
        encoding = self._encode(payload)
        ids = np.array(encoding.ids, dtype=np.int64)
        return Sample(ids, cost=len(ids), truncated=bool(encoding.overflowing))

    def sample(self, ids: Sequence[int]) -> Sample:
        """A text that came as token ids, special ones included.

        Raises:
            TooLarge: there are more than the model reads.
            Unreadable: there are none, or the vocabulary has not all of them.
        """
        if len(ids) > self.spec.max_length:
            raise TooLarge(f"{len(ids)} tokens; at most {self.spec.max_length} are read")
        known = range(self._tokenizer.get_vocab_size())
        if not ids or not all(number in known for number in ids):
            raise Unreadable(f"tokens must be one or more numbers, each below {known.stop}")
        return Sample(np.array(ids, dtype=np.int64), cost=len(ids))

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        """int64[N, longest] for each of the manifest's inputs."""
        longest = max(len(sample.data) for sample in samples)
        ids = np.full((len(samples), longest), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, sample in enumerate(samples):
            ids[row, : len(sample.data)] = sample.data
            mask[row, : len(sample.data)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return {name: feeds[name] for name in self.spec.inputs}

    def tokens(self, payload: bytes) -> tuple[list[Token], bool]:
        """What the model reads, token by token, and whether the text was truncated."""
        encoding = self._encode(payload)
        pieces = zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
        tokens = [Token(id_, token, *offsets) for id_, token, offsets in pieces]
        return tokens, bool(encoding.overflowing)

    def _encode(self, payload: bytes) -> Encoding:
        if len(payload) > self._limits.text_bytes:
            raise TooLarge(
                f"the text has {len(payload):,} bytes;"
                f" at most {self._limits.text_bytes:,} are taken"
            )
        try:
            text = payload.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Unreadable(
                f"the text is not UTF-8: byte {error.start} cannot be decoded"
            ) from error
        if not text.strip():
            raise Unreadable("the text is empty")
        if len(payload) <= self.quick_bytes:
            return self._tokenizer.encode(text)
        [encoding] = self._tokenizer.encode_batch([text])  # which lets the interpreter go on
        return encoding
