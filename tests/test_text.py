"""Texts become token ids."""

from pathlib import Path

import numpy as np
import pytest

from service.errors import TooLarge, Unreadable
from service.limits import InputLimits
from service.model.preprocessing.text import TextPreprocessing, TextPreprocessor
from tests.conftest import VOCABULARY, write_words


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_words(tmp_path)


def preprocessor(folder: Path, **spec: object) -> TextPreprocessor:
    content = {"modality": "text", "max_length": 4, **spec}
    return TextPreprocessor(
        TextPreprocessing.model_validate(content), InputLimits(text_bytes=100), folder
    )


def test_words_become_their_ids(folder: Path) -> None:
    sample = preprocessor(folder).decode(b"red sea lion")
    assert [VOCABULARY[token] for token in sample.data] == ["red", "sea", "[UNK]"]
    assert sample.cost == 3
    assert not sample.truncated


def test_a_long_text_is_truncated_and_says_so(folder: Path) -> None:
    sample = preprocessor(folder).decode(b"red green blue cat dog")
    assert sample.cost == 4
    assert sample.truncated


def test_a_text_of_just_the_length_is_not_truncated(folder: Path) -> None:
    assert not preprocessor(folder).decode(b"red green blue cat").truncated


def test_texts_are_padded_to_the_longest(folder: Path) -> None:
    text = preprocessor(folder, inputs=["input_ids", "attention_mask", "token_type_ids"])
    feeds = text.collate([text.decode(b"red"), text.decode(b"red green blue")])
    assert feeds["input_ids"].tolist() == [[2, 0, 0], [2, 3, 4]]
    assert feeds["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert feeds["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert all(feed.dtype == np.int64 for feed in feeds.values())


def test_only_the_inputs_that_the_graph_has_are_fed(folder: Path) -> None:
    text = preprocessor(folder, inputs=["input_ids"])
    assert list(text.collate([text.decode(b"red")])) == ["input_ids"]


def test_tokens_are_shown_with_their_places(folder: Path) -> None:
    shown = preprocessor(folder).preview("blue été".encode())
    assert [(t.id, t.token, t.start, t.end) for t in shown["tokens"]] == [
        (4, "blue", 0, 4),
        (1, "[UNK]", 5, 8),
    ]
    assert not shown["truncated"]


def test_a_byte_order_mark_is_no_word(folder: Path) -> None:
    assert preprocessor(folder).decode(b"\xef\xbb\xbfred").data.tolist() == [2]


@pytest.mark.parametrize("payload", [b"", b"  \n\t", b"\xff\xfe", b"red \xc3", b"\xed\xa0\x80"])
def test_what_is_no_text_is_unreadable(folder: Path, payload: bytes) -> None:
    with pytest.raises(Unreadable):
        preprocessor(folder).decode(payload)


def test_a_text_beyond_the_limit_is_refused(folder: Path) -> None:
    with pytest.raises(TooLarge, match="101 bytes; at most 100"):
        preprocessor(folder).decode(b"x" * 101)
