"""Text: a string becomes token ids, never longer than the model can read."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Encoding, Tokenizer

from service.errors import BadModel, BadRequest, CallerError, TooLarge, Unreadable
from service.limits import DEFAULT_LIMITS, InputLimits
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.specs import FileName, Positive, PreprocessingSpec
from service.model.types import Sample
from service.regular import read_regular
from service.runtime.tensors import Array, TensorSpec

TOKENIZER_BYTES = 2**28  # those of the largest vocabularies have 2**25
# Control, format, surrogate, combining and white space: of these alone nothing can be read.
INVISIBLE = {"Cc", "Cf", "Cs", "Mn", "Me", "Zl", "Zp", "Zs"}
BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # letters and a symbol that show nothing


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its id, how the vocabulary writes it, and its [start, end) in the text."""

    id: int
    token: str
    start: int
    end: int


TokenInput = Literal["input_ids", "attention_mask", "token_type_ids"]


class TextPreprocessing(PreprocessingSpec):
    """A text becomes token ids, padded to the longest of its batch."""

    modality: Literal["text"]
    tokenizer: FileName = "tokenizer.json"
    max_length: Positive  # tokens, special ones included
    pad_token: str = "[PAD]"
    inputs: tuple[TokenInput, ...] = ("input_ids", "attention_mask")

    def files(self) -> Mapping[str, str]:
        return {"tokenizer": self.tokenizer}


class TextPreprocessor(Preprocessor):
    """Tokenise, truncate; pad to the longest of the batch, on the tokenizer's side.

    A graph without `attention_mask` cannot tell padding from words, so only texts of one length
    share its batches.
    """

    modality = "text"
    plural = "texts"
    spec_type = TextPreprocessing
    media_types = ("text/plain",)
    is_text = True
    quick_bytes = 500  # 0.1 to 0.2 ms; to hand it to a thread and back takes 0.05 to 0.1
    decodes_before_queue = True  # batches group texts of similar length

    spec: TextPreprocessing

    def __init__(
        self,
        spec: TextPreprocessing,
        limits: InputLimits = DEFAULT_LIMITS,
        folder: Path = Path(),
    ) -> None:
        super().__init__(spec, limits, folder)
        path = folder / spec.tokenizer
        content = read_regular(path, TOKENIZER_BYTES)
        try:
            self._tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises a bare Exception
            raise BadModel(f"{path}: preprocessing.tokenizer: cannot be read: {error}") from error
        self._masks = "attention_mask" in spec.inputs
        self._special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if spec.max_length <= self._special:  # the library would then not truncate at all
            raise BadModel(
                f"{path}: preprocessing.max_length: {spec.max_length} leaves no room for words"
                f" beside {self._special} special tokens"
            )
        truncation = self._tokenizer.truncation or {}
        direction = str(truncation.get("direction", "right"))
        self._tokenizer.enable_truncation(spec.max_length, direction=direction)
        self._read_padding(path)

    def _read_padding(self, path: Path) -> None:
        padding = self._tokenizer.padding or {}
        self._tokenizer.no_padding()  # of single texts: `collate` pads batches
        self._pads_left = padding.get("direction") == "left"
        self._pad_type = int(padding.get("pad_type_id", 0))
        pad = self._tokenizer.token_to_id(self.spec.pad_token)
        if padding.get("pad_token") == self.spec.pad_token:
            pad = int(padding["pad_id"])
        if pad is None and self._masks:
            raise BadModel(f"{path}: preprocessing.pad_token: {self.spec.pad_token} is not a token")
        self._pad = pad or 0

    def inputs(self) -> dict[str, TensorSpec]:
        return {name: TensorSpec("int64", (None, None)) for name in self.spec.inputs}

    def decode(self, payload: bytes) -> Sample:
        """One UTF-8 text as int64[tokens]."""
        encoding = self._encode(payload)
        types = np.array(encoding.type_ids) if "token_type_ids" in self.spec.inputs else None
        return self._sample(encoding.ids, types, truncated=bool(encoding.overflowing))

    def sample(self, ids: Sequence[int]) -> Sample:
        """A text that came as token ids, special ones included.

        Raises:
            TooLarge: there are more than the model reads.
            Unreadable: there are none, or they are not of this tokenizer.
        """
        if len(ids) > self.spec.max_length:
            raise TooLarge(f"{len(ids)} tokens; at most {self.spec.max_length} are read")
        known = range(self._tokenizer.get_vocab_size())
        if not ids or not all(number in known for number in ids):
            raise Unreadable(f"tokens must be one or more numbers, each below {known.stop}")
        special = self._tokenizer.encode("").ids
        if not any(
            [*ids[:before], *ids[len(ids) - len(special) + before :]] == special
            for before in range(len(special) + 1)
        ):
            raise Unreadable(
                f"tokens lack the special ones {special} at their ends, so they are of another"
                " tokenizer; send texts (LangChain: check_embedding_ctx_length=False)"
            )
        return self._sample(ids)

    def longest(self, payload: bytes) -> Sample:
        """The text, repeated until it has as many tokens as the model reads, or as may come."""
        repeats = min(self.spec.max_length, self._limits.text_bytes // (len(payload) + 1))
        return self.decode(b" ".join([payload] * max(1, repeats)))

    def collate(self, samples: Sequence[Sample]) -> dict[str, Array]:
        """int64[N, longest] for each of the manifest's inputs."""
        longest = max(len(sample.data) for sample in samples)
        ids = np.full((len(samples), longest), self._pad, dtype=np.int64)
        mask = np.zeros_like(ids)
        types = np.full_like(ids, self._pad_type)
        for row, sample in enumerate(samples):
            length = len(sample.data)
            if length < longest and not self._masks:
                raise ValueError("without attention_mask, texts in a batch must have one length")
            words = slice(longest - length, None) if self._pads_left else slice(length)
            ids[row, words] = sample.data
            mask[row, words] = 1
            types[row, words] = 0 if sample.types is None else sample.types
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: feeds[name] for name in self.spec.inputs}

    def preview(self, payload: bytes) -> dict[str, Any]:
        """The tokens that the model reads, and whether the text was truncated."""
        encoding = self._encode(payload)
        pieces = zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
        tokens = [Token(id_, token, *offsets) for id_, token, offsets in pieces]
        return {"truncated": bool(encoding.overflowing), "tokens": tokens}

    def neighbours(self, example: Sample, payload: bytes) -> list[Sample]:
        """Other words, as many; a longer text and a shorter one."""
        data = example.data
        words = data.copy()
        inner = slice(1, -1) if len(data) > 2 else slice(None)  # special tokens stay at both ends
        words[inner] = (data[inner] + 1) % (data.max() + 1)
        texts = [Sample(words, example.cost, key=example.key, types=example.types)]
        for text in (payload + b" " + payload, payload.split()[0]):
            try:
                texts.append(self.decode(text))
            except CallerError:  # too long, or a word that alone is none
                continue
        alike = [text for text in texts if text.key == example.key]
        return sorted(alike, key=lambda text: -text.cost) if len(alike) > 1 else alike * 2

    def cost_of(self, tensors: Mapping[str, Array]) -> int:
        """Tokens of a row, the same for all inputs."""
        lengths = {int(tensor.shape[1]) for tensor in tensors.values()}
        if len(lengths) > 1 or 0 in lengths:
            raise BadRequest("all inputs must be of the same number of tokens, one or more")
        [tokens] = lengths
        if tokens > self.spec.max_length:
            raise TooLarge(f"rows have {tokens} tokens; at most {self.spec.max_length} are read")
        return tokens

    def _sample(
        self, ids: Sequence[int], types: Array | None = None, *, truncated: bool = False
    ) -> Sample:
        key = None if self._masks else len(ids)
        return Sample(np.array(ids, np.int64), len(ids), truncated, key, types)

    def _encode(self, payload: bytes) -> Encoding:
        """Raises:
        TooLarge: the text is beyond the limit.
        Unreadable: it is not UTF-8, empty, or of nothing that the tokenizer knows.
        """
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
        if not any(map(_is_visible, text)):
            raise Unreadable("the text is empty")
        try:
            if len(payload) <= self.quick_bytes:
                encoding = self._tokenizer.encode(text)
            else:  # which lets the interpreter go on
                [encoding] = self._tokenizer.encode_batch([text])
        except Exception as error:  # the library raises a bare Exception
            raise Unreadable(f"the tokenizer cannot read the text: {error}") from error
        if len(encoding) <= self._special:
            raise Unreadable("the tokenizer finds no word in the text")
        return encoding


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in INVISIBLE and character not in BLANK
