"""Odd models and odd texts: answered alone and in company alike, or refused with a reason."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from service.errors import BadModel, BatchFailed, Unreadable
from service.inference.batch import BatchLimits
from service.inference.batching import Batcher
from service.metrics import ModelSeries
from service.model.model import Model, load
from service.model.preprocessing.text import TextPreprocessing, TextPreprocessor
from service.model.tasks.classify import Classify, ClassifySpec
from service.model.tasks.embed import Embed, EmbedSpec, cosines
from service.model.tasks.task import Task
from service.model.types import Sample
from service.settings import Settings
from tests.conftest import COLOURS, png, write_colours, write_model, write_warmth, write_words
from tests.test_routes import problem, serving

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "cat", "dog", "sea"]
DEPTH = 16
LIMIT = 6  # tokens
TEXTS = ["red", "red cat", "blue dog sea", "cat cat green", "sea green blue cat dog red", "dog"]
TEXTS += ["red cat blue dog sea green red cat blue", "green green green sea sea"]

# The vector counts tokens and, where it has them, weighs them by their types.
GRAPH = """
<ir_version: 9, opset_import: ["" : 18]>
words (INPUTS) => (float[N,16] vector)
<int64[1] one = {1}, int64[1] two = {2}, int64 depth = {16}, float[2] off_on = {0, 1},
 float unit = {1}> {
    embedded = OneHot(input_ids, depth, off_on)
    BODY
}
"""
BODIES = {
    "ids": "vector = ReduceMean<keepdims = 0>(embedded, one)",
    "mask": """
    mask = Cast<to = 1>(attention_mask)
    wide = Unsqueeze(mask, two)
    counted = Mul(embedded, wide)
    total = ReduceSum<keepdims = 0>(counted, one)
    length = ReduceSum<keepdims = 1>(mask, one)
    vector = Div(total, length)""",
    "types": """
    mask = Cast<to = 1>(attention_mask)
    kinds = Cast<to = 1>(token_type_ids)
    weights = Add(kinds, unit)
    weighed = Mul(mask, weights)
    wide = Unsqueeze(weighed, two)
    counted = Mul(embedded, wide)
    total = ReduceSum<keepdims = 0>(counted, one)
    length = ReduceSum<keepdims = 1>(mask, one)
    vector = Div(total, length)""",
}
INPUTS = {
    "ids": ["input_ids"],
    "mask": ["input_ids", "attention_mask"],
    "types": ["input_ids", "attention_mask", "token_type_ids"],
}


def graph(inputs: str, body: str | None = None) -> str:
    declared = ", ".join(f"int64[N,L] {name}" for name in INPUTS[inputs])
    return GRAPH.replace("INPUTS", declared).replace("BODY", body or BODIES[inputs])


def tokenizer(kind: str, pad: str | None = None, cut: str | None = None) -> Tokenizer:
    words = {word: number for number, word in enumerate(VOCABULARY)}
    if kind == "unigram":
        found = Tokenizer(models.Unigram([(word, -1.0) for word in VOCABULARY], unk_id=1))
    elif kind in ("wordpiece", "typed"):
        found = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
        found.normalizer = normalizers.BertNormalizer()
    elif kind == "no-unknown":
        found = Tokenizer(models.WordLevel(words))
    else:
        found = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind in ("wordpiece", "typed"):
        found.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]" if kind == "wordpiece" else "$A:0 [SEP]:1 [CLS]:2",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    if pad:
        found.enable_padding(direction=pad, pad_id=0, pad_type_id=3, pad_token="[PAD]", length=20)
    if cut:
        found.enable_truncation(4, direction=cut)
    return found


def write_texts(
    folder: Path,
    given: Tokenizer,
    inputs: str,
    body: str | None = None,
    example: bytes = b"red cat sea",
    **options: Any,
) -> Path:
    return write_model(
        folder,
        graph(inputs, body),
        name="texts",
        preprocessing={"modality": "text", "max_length": LIMIT, "inputs": INPUTS[inputs]},
        tasks={"embed": {"output": "vector", "width": DEPTH}},
        batching={"max_batch": options.pop("max_batch", 4)},
        example={"file": "example.txt", "tolerance": {"fp32": 1e-5}},
        files={"tokenizer.json": given.to_str().encode(), "example.txt": example},
        **options,
    )


def together(model: Model, samples: Sequence[Sample]) -> list[Any]:
    """Vectors of samples that share a run wherever their keys are equal, as in a batcher."""
    found: dict[int, Any] = {}
    for key in {sample.key for sample in samples}:
        alike = [number for number, sample in enumerate(samples) if sample.key == key]
        answers = model.answers([samples[number] for number in alike])
        found |= {number: answer["embed"] for number, answer in zip(alike, answers, strict=True)}
    return [found[number] for number in range(len(samples))]


KINDS = ["wordlevel", "wordpiece", "typed", "unigram"]
VARIANTS = list(product(KINDS, [None, "left", "right"], [None, "left", "right"], INPUTS))


@pytest.mark.parametrize(("kind", "pad", "cut", "inputs"), VARIANTS)
def test_a_text_is_read_as_its_tokenizer_says_in_any_company(
    tmp_path: Path, kind: str, pad: str | None, cut: str | None, inputs: str
) -> None:
    """108 variants: tokenizer, side of the padding, side of the truncation, inputs."""
    given = tokenizer(kind, pad, cut)
    model = load(write_texts(tmp_path, given, inputs), Settings())
    given.enable_truncation(LIMIT, direction=cut or "right")
    given.no_padding()
    samples = [model.decode(text.encode()) for text in TEXTS]
    for text, sample, vector in zip(TEXTS, samples, together(model, samples), strict=True):
        encoding = given.encode(text)
        weights = np.array(encoding.type_ids) + 1 if inputs == "types" else np.ones(len(encoding))
        right = np.zeros(DEPTH)
        np.add.at(right, encoding.ids, weights / len(encoding))
        np.testing.assert_allclose(vector, right, atol=1e-6, err_msg=text)
        assert sample.truncated == bool(encoding.overflowing), text


LAST_TOKEN = """
    mask = Cast<to = 1>(attention_mask)
    wide = Unsqueeze(mask, two)
    seen = Mul(embedded, wide)
    end = Constant<value_int = -1>()
    vector = Gather<axis = 1>(seen, end)"""
FIRST_TOKEN = LAST_TOKEN.replace("-1", "0")


@pytest.mark.parametrize(
    ("pad", "body", "served"),
    [
        ("left", LAST_TOKEN, True),
        ("right", FIRST_TOKEN, True),
        (None, FIRST_TOKEN, True),
        ("left", FIRST_TOKEN, False),
        ("right", LAST_TOKEN, False),
        (None, LAST_TOKEN, False),
    ],
)
def test_a_graph_that_reads_one_end_is_served_where_padding_is_at_the_other(
    tmp_path: Path, pad: str | None, body: str, served: bool
) -> None:
    folder = write_texts(tmp_path, tokenizer("wordlevel", pad), "mask", body)
    if served:
        model = load(folder, Settings())
        alone = model.answers([model.decode(b"cat")])[0]["embed"]
        beside = model.answers([model.decode(b"cat"), model.decode(b"red cat sea dog")])[0]["embed"]
        np.testing.assert_array_equal(alone, beside)
    else:
        with pytest.raises(BadModel, match=r"in a batch of 2.*max_batch: 1"):
            load(folder, Settings())


ONE_BATCH = "bias = ReduceMean<keepdims = 1>(SOURCE, first)\n mixed = Sub(SOURCE, bias)"
MIXING = {  # what makes `mixed` of a float [N, ...] and so lets items of a batch see each other
    "mean": ONE_BATCH,
    "sum": ONE_BATCH.replace("ReduceMean", "ReduceSum"),
    "max": ONE_BATCH.replace("ReduceMean", "ReduceMax"),
    "cumsum": "mixed = CumSum(SOURCE, zero)",
    "softmax": "mixed = Softmax<axis = 0>(SOURCE)",
    "norm": "mixed = LpNormalization<axis = 0>(SOURCE)",
    "reversed": "mixed = ReverseSequence<batch_axis = 1, time_axis = 0>(SOURCE, lengths)",
    "training": """
    mixed, m2, v2 = BatchNormalization<training_mode = 1>(SOURCE, ones, zeros, zeros, ones)""",
}
CONSTANTS = (
    "int64[1] first = {0}, int64 zero = {0}, float[3] ones = {1, 1, 1}, float[3] zeros = {0, 0, 0}"
)


@pytest.mark.parametrize("way", MIXING)
@pytest.mark.parametrize("most", [1, 2, 8])
def test_a_graph_that_mixes_the_items_of_a_batch_is_served_only_by_one(
    tmp_path: Path, way: str, most: int
) -> None:
    body = MIXING[way].replace("SOURCE", "vector0")
    if way == "reversed":  # of a batch: as many as there are, for each of three channels
        body = "size = Shape<end = 1>(vector0)\n three = Expand(size, thrice)\n " + body.replace(
            "lengths", "three"
        )
    mixed = (
        COLOURS.replace("<int64[2] sides", f"<int64[1] thrice = {{3}}, {CONSTANTS}, int64[2] sides")
        .replace("vector = ReduceMean", "vector0 = ReduceMean")
        .replace("logits = Mul", f"{body}\n vector = Identity(mixed)\n logits = Mul")
    )

    def change(manifest: dict[str, Any]) -> None:
        manifest["batching"]["max_batch"] = most

    folder = write_colours(tmp_path, graph=mixed, change=change)
    if most == 1 and way == "training":  # onnxruntime writes its moments back at each run
        with pytest.raises(BadModel, match="export it in evaluation mode"):
            load(folder, Settings())
        return
    if most == 1:
        assert load(folder, Settings()).labels
        return
    with pytest.raises(BadModel, match=r"mixes the items of a batch.*model\.eval\(\)"):
        load(folder, Settings())


@pytest.mark.parametrize("most", [1, 2, 8])
def test_a_graph_that_answers_by_chance_is_refused(tmp_path: Path, most: int) -> None:
    """As an export in training mode does, whose Dropout drops."""
    chance = (
        COLOURS.replace("<int64[2] sides", "<bool yes = {1}, float half = {0.5}, int64[2] sides")
        .replace("vector = ReduceMean", "mean = ReduceMean")
        .replace("logits =", "vector = Dropout(mean, half, yes)\n logits =")
    )

    def change(manifest: dict[str, Any]) -> None:
        manifest["batching"]["max_batch"] = most

    with pytest.raises(BadModel, match=r"example\.expected: \w+ differs by"):
        load(write_colours(tmp_path, graph=chance, change=change), Settings())


def test_the_check_asks_for_nothing_beyond_the_example(tmp_path: Path) -> None:
    """A graph that needs for ever for white pictures is loaded by a darker example."""
    white = np.full((8, 8, 3), 255, np.uint8)
    model = load(write_colours(tmp_path), Settings())
    for level in (0, 40, 200):
        example = Sample(np.full_like(white, level))
        others = model.preprocessor.neighbours(example, b"")
        assert max(int(other.data.max()) for other in others) <= level + 1
        assert any((other.data != example.data).any() for other in others)


@pytest.mark.anyio
async def test_texts_without_a_mask_share_a_queue_and_not_a_length(tmp_path: Path) -> None:
    model = load(write_texts(tmp_path, tokenizer("wordlevel"), "ids"), Settings())
    limits = BatchLimits(items=8, padding=1000)
    async with Batcher(model.compute, limits, 1, ModelSeries("texts", 1)) as batcher:
        samples = [model.decode(text.encode()) for text in TEXTS * 4]
        replies = await asyncio.gather(*map(batcher.submit, samples))
    for sample, reply in zip(samples, replies, strict=True):
        [alone] = model.answers([sample])
        np.testing.assert_array_equal(model.tasks["embed"].interpret(reply.row), alone["embed"])


def test_a_text_as_long_as_the_manifest_allows_must_run(tmp_path: Path) -> None:
    """Positions for four tokens only, and an example of three."""
    few = """
    shape = Shape<start = 1>(input_ids)
    zero = Constant<value_int = 0>()
    step = Constant<value_int = 1>()
    length = Squeeze(shape)
    places = Range(zero, length, step)
    table = Constant<value_floats = [0.0, 0.0, 0.0, 0.0]>()
    found = Gather(table, places)
    column = Unsqueeze(found, one)
    placed = Add(embedded, column)
    vector = ReduceMean<keepdims = 0>(placed, one)"""
    folder = write_texts(tmp_path / "few", tokenizer("wordlevel"), "ids", few)
    with pytest.raises(BadModel, match=r"max_length: a text of 6 tokens fails; lower it"):
        load(folder, Settings())
    enough = few.replace("[0.0", "[0.0, 0.0, 0.0")
    folder = write_texts(tmp_path / "enough", tokenizer("wordlevel"), "ids", enough)
    assert load(folder, Settings()).manifest.name == "texts"


def preprocessor(folder: Path, given: Tokenizer, **spec: Any) -> TextPreprocessor:
    (folder / "tokenizer.json").write_text(given.to_str())
    content = {"modality": "text", "max_length": LIMIT, **spec}
    return TextPreprocessor(TextPreprocessing.model_validate(content), folder=folder)


UNREADABLE = {
    "nothing": "",
    "space": " ",
    "no-break space": "\u00a0",
    "ideographic space": "\u3000",
    "line separator": "\u2028",
    "zero width space": "\u200b",
    "zero width joiners": "\u200d\u200c",
    "word joiner": "\u2060",
    "byte order marks": "\ufeff\ufeff",
    "NUL": "\0",
    "control characters": "\x01\x02\x1f\x7f\x85",
    "soft hyphen": "\u00ad",
    "direction marks": "\u200e\u200f\u202a\u2066",
    "variation selector": "\ufe0f",
    "tags": "\U000e0041\U000e007f",
    "combining mark": "\u0301",
    "grapheme joiner": "\u034f",
    "Hangul fillers": "\u115f\u1160\u3164\uffa0",
    "blank Braille": "\u2800",
    "a mixture": " \0\u200b\n\ufeff\t\u2800",
}


@pytest.mark.parametrize("kind", ["wordlevel", "wordpiece", "unigram", "no-unknown"])
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_text_of_nothing_to_see_is_the_items_error(tmp_path: Path, name: str, kind: str) -> None:
    text = preprocessor(tmp_path, tokenizer(kind))
    with pytest.raises(Unreadable, match="the text is empty"):
        text.decode(UNREADABLE[name].encode())
    with pytest.raises(Unreadable, match="the text is empty"):
        text.preview(UNREADABLE[name].encode())


@pytest.mark.parametrize(
    "text", ["a", "\u200bred", "é", "e\u0301", "👍", "👩\u200d👧", "1", ".", "字"]
)
def test_a_text_with_something_to_see_is_read(tmp_path: Path, text: str) -> None:
    assert preprocessor(tmp_path, tokenizer("wordlevel")).decode(text.encode()).cost >= 1


@pytest.mark.parametrize("payload", [b"\xed\xa0\x80", b"red \xff", b"\xc3"])
def test_bytes_that_are_no_utf_8_are_the_items_error(tmp_path: Path, payload: bytes) -> None:
    with pytest.raises(Unreadable, match="not UTF-8"):
        preprocessor(tmp_path, tokenizer("wordlevel")).decode(payload)


def test_a_word_that_the_vocabulary_lacks_is_the_items_error(tmp_path: Path) -> None:
    text = preprocessor(tmp_path, tokenizer("no-unknown"))
    for words in ("red elephant", "red elephant " * 100):  # encoded alone, and in a batch
        with pytest.raises(Unreadable, match="the tokenizer cannot read the text"):
            text.decode(words.encode())
    nothing = Tokenizer(models.BPE())
    nothing.pre_tokenizer = pre_tokenizers.Whitespace()
    nothing.add_special_tokens(["[PAD]"])
    with pytest.raises(Unreadable, match="finds no word"):
        preprocessor(tmp_path, nothing).decode(b"elephant")


@pytest.mark.parametrize(("most", "fits"), [(1, False), (2, False), (3, True)])
def test_special_tokens_leave_room_for_words(tmp_path: Path, most: int, fits: bool) -> None:
    if fits:
        text = preprocessor(tmp_path, tokenizer("wordpiece"), max_length=most)
        assert text.decode(b"red cat").data.tolist() == [2, 4, 3]
        return
    with pytest.raises(BadModel, match="leaves no room for words beside 2 special tokens"):
        preprocessor(tmp_path, tokenizer("wordpiece"), max_length=most)


def test_a_pad_token_is_needed_only_for_padding(tmp_path: Path) -> None:
    given = Tokenizer(models.WordLevel({"red": 0, "[UNK]": 1}, unk_token="[UNK]"))
    assert preprocessor(tmp_path, given, inputs=["input_ids"]).decode(b"red").data.tolist() == [0]
    with pytest.raises(BadModel, match=r"\[PAD\] is not a token"):
        preprocessor(tmp_path, given)


def test_the_pad_id_is_the_tokenizers(tmp_path: Path) -> None:
    given = tokenizer("wordlevel")
    given.enable_padding(pad_id=7, pad_type_id=2, pad_token="[PAD]")
    text = preprocessor(tmp_path, given, inputs=INPUTS["types"])
    feeds = text.collate([text.decode(b"red"), text.decode(b"red cat")])
    assert feeds["input_ids"].tolist() == [[4, 7], [4, 7]]
    assert feeds["token_type_ids"].tolist() == [[0, 2], [0, 0]]


# What a row must not hold: by activation, or of a vector.
NOT_A_NUMBER, INFINITE = float("nan"), float("inf")
ROWS: list[tuple[str, list[float], list[float] | None]] = [
    ("softmax", [NOT_A_NUMBER, 0, 1], None),
    ("softmax", [INFINITE, 0, 1], None),
    ("softmax", [-INFINITE, -INFINITE, -INFINITE], None),
    ("softmax", [-INFINITE, 0, -INFINITE], [0, 1, 0]),
    ("softmax", [3e38, -3e38, 0], [1, 0, 0]),
    ("log_softmax", [NOT_A_NUMBER, 0, -1], None),
    ("log_softmax", [INFINITE, 0, -1], None),
    ("log_softmax", [5, 0, -1], None),
    ("log_softmax", [0, -INFINITE, -1000], [1, 0, 0]),
    ("sigmoid", [NOT_A_NUMBER, 0, 1], None),
    ("sigmoid", [INFINITE, -INFINITE, 0], [1, 0, 0.5]),
    ("sigmoid", [1000, -1000, 0], [1, 0, 0.5]),
    ("none", [NOT_A_NUMBER, 0, 1], None),
    ("none", [INFINITE, 0, 1], None),
    ("none", [-INFINITE, 0, 1], None),
    ("none", [-0.5, 0.5, 1], None),
    ("none", [0, 1.5, 0], None),
    ("none", [1.001, -0.001, 0], [1, 0, 0]),
    ("none", [0.25, 0.5, 1], [0.25, 0.5, 1]),
    ("embed", [NOT_A_NUMBER, 0, 1], None),
    ("embed", [INFINITE, 0, 1], None),
    ("embed", [-INFINITE, 0, 1], None),
    ("embed", [-5, 3e38, 0], [-5, 3e38, 0]),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("activation", "row", "expected"), ROWS)
def test_what_is_no_answer_is_refused(
    activation: str, row: list[float], expected: list[float] | None, dtype: str, tmp_path: Path
) -> None:
    values = np.clip(row, -6e4, 6e4) if dtype == "float16" and np.isfinite(row).all() else row
    given = np.array(values, dtype)
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    task: Task = Embed(EmbedSpec(output="y", width=3), tmp_path)
    if activation != "embed":
        spec = ClassifySpec.model_validate({"output": "y", "activation": activation})
        task = Classify(spec, tmp_path)
    if expected is None:
        with pytest.raises(BatchFailed, match="output y holds"):
            task.interpret({"y": given})
        return
    wanted = given if activation == "embed" else expected
    np.testing.assert_allclose(task.interpret({"y": given}), wanted, atol=1e-6)


def test_cosines_of_very_large_and_small_vectors() -> None:
    for scale in (1e-30, 1.0, 1e30):
        one, two = np.array([[3, 4], [4, 3]], np.float32) * np.float32(scale)
        np.testing.assert_allclose(cosines([one], [one, two]), [[1, 0.96]], rtol=1e-5)


# Blue pictures have no answer: a division of nought by nought, or of one by it.
BROKEN = COLOURS.replace("vector = ReduceMean", "mean = ReduceMean").replace(
    "logits = Mul(vector, scale)",
    """
    low = Constant<value_floats = [100.0]>()
    first = Constant<value_ints = [0]>()
    next = Constant<value_ints = [1]>()
    axis = Constant<value_ints = [1]>()
    red = Slice(mean, first, next, axis)
    warm = Greater(red, low)
    divisor = Cast<to = 1>(warm)
    nought = Sub(DIVIDEND, DIVIDEND)
    dividend = Add(nought, divisor)
    ratio = Div(PART, divisor)
    vector = Mul(mean, ratio)
    logits = Mul(vector, scale)""",
)
BREAKS = {
    "nan": BROKEN.replace("DIVIDEND", "red").replace("PART", "dividend"),
    "infinity": BROKEN.replace("DIVIDEND", "red").replace("PART", "low"),
}
GOOD, BAD = png((200, 30, 40)), png((10, 10, 250))


def data_uri(payload: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(payload).decode()


def v2(payload: bytes, **more: Any) -> dict[str, Any]:
    size = len(payload) + 4
    given = {"name": "image", "datatype": "BYTES", "shape": [1, 1]}
    document = {"inputs": [{**given, "parameters": {"binary_data_size": size}}], **more}
    header = json.dumps(document).encode()
    return {
        "content": header + len(payload).to_bytes(4, "little") + payload,
        "headers": {"Inference-Header-Content-Length": str(len(header))},
    }


def openai(payload: bytes, **more: Any) -> dict[str, Any]:
    return {"json": {"model": "colours", "input": data_uri(payload), **more}}


WAYS: dict[str, tuple[str, Any]] = {
    "classify": ("/v1/image/classify?model=colours", lambda p: {"content": p}),
    "one label": ("/v1/image/classify?model=colours&top_k=1", lambda p: {"content": p}),
    "embed": ("/v1/image/embed?model=colours", lambda p: {"content": p}),
    "head": ("/v1/image/classify?model=warmth", lambda p: {"content": p}),
    "embeddings": ("/v1/embeddings", openai),
    "base64": ("/v1/embeddings", lambda p: openai(p, encoding_format="base64")),
    "dimensions": ("/v1/embeddings", lambda p: openai(p, dimensions=2)),
    "v2": ("/v2/models/colours/infer", v2),
    "v2 binary": (
        "/v2/models/colours/infer",
        lambda p: v2(p, parameters={"binary_data_output": True}),
    ),
    "v2 classes": (
        "/v2/models/colours/infer",
        lambda p: v2(p, outputs=[{"name": "scores", "parameters": {"classification": 2}}]),
    ),
    "v2 head": ("/v2/models/warmth/infer", v2),
}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", BREAKS)
@pytest.mark.parametrize("cache", [0, 2**20])
async def test_no_protocol_gives_what_is_no_number(tmp_path: Path, kind: str, cache: int) -> None:
    """44 variants: ways to ask, NaN and infinity, with a cache and without."""
    write_colours(tmp_path, graph=BREAKS[kind])
    write_warmth(tmp_path)
    found: Counter[str] = Counter()
    async with serving(tmp_path, cache_bytes=cache) as client:
        for way, (path, request) in WAYS.items():
            for payload in (GOOD, BAD, BAD, GOOD):
                response = await client.post(path, **request(payload))
                found[f"{way}: {_outcome(response, path)}"] += 1
        files = [("f", ("p.png", payload)) for payload in (GOOD, BAD, GOOD)]
        mixed = await client.post("/v1/image/classify?model=colours", files=files)
    expected = {f"{way}: ok": 2 for way in WAYS} | {f"{way}: inference_failed": 2 for way in WAYS}
    assert found == expected
    results = mixed.json()["results"]
    assert [result["status"] for result in results] == ["ok", "error", "ok"]
    assert results[1]["error"]["code"] == "inference_failed"


def _outcome(response: httpx.Response, path: str) -> str:
    if response.status_code == 200:
        assert b"NaN" not in response.content
        return "ok"
    if path.startswith("/v2"):
        assert response.status_code == 500
        assert "NaN or infinity" in response.text
        return "inference_failed"
    return str(problem(response, 500, "inference_failed")["code"])


@pytest.mark.anyio
async def test_a_callers_own_tensors_may_come_back_as_they_are(tmp_path: Path) -> None:
    write_colours(tmp_path, graph=BREAKS["nan"])
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    given = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": pixels.tolist()}
    document = {"inputs": [given], "outputs": [{"name": "vector"}]}
    async with serving(tmp_path) as client:
        as_json = await client.post("/v2/models/colours:tensors/infer", json=document)
        document["parameters"] = {"binary_data_output": True}  # type: ignore[assignment]
        raw = await client.post("/v2/models/colours:tensors/infer", json=document)
    assert as_json.status_code == 400
    assert "request binary data" in as_json.json()["error"]
    assert np.isnan(np.frombuffer(raw.content[-12:], np.float32)).all()


@pytest.mark.anyio
async def test_texts_without_words_cost_only_themselves(tmp_path: Path) -> None:
    write_words(tmp_path)
    texts = ["red", "\u200b", "\0", "cat sea", "\u3000\n"]
    async with serving(tmp_path) as client:
        response = await client.post("/v1/text/embed", json={"input": texts})
        for text in texts[1:3]:
            alone = await client.post("/v1/embeddings", json={"model": "words", "input": text})
            problem(alone, 422, "unreadable")
    found = [result["status"] for result in response.json()["results"]]
    assert found == ["ok", "error", "error", "ok", "error"]


@pytest.mark.parametrize("kind", BREAKS)
def test_an_example_without_an_answer_refuses_the_model(tmp_path: Path, kind: str) -> None:
    folder = write_colours(tmp_path, graph=BREAKS[kind])
    (folder / "example.png").write_bytes(BAD)
    with pytest.raises(BadModel, match=r"example\.expected: tasks\.\w+: output \w+ holds"):
        load(folder, Settings())


def test_a_graph_that_gives_too_few_rows_is_refused(tmp_path: Path) -> None:
    graph = COLOURS.replace("vector = ReduceMean", "means = ReduceMean").replace(
        "logits =", "vector = Slice(means, start, end) logits ="
    )
    graph = graph.replace("float scale", "int64[1] start = {0}, int64[1] end = {1}, float scale")
    folder = write_colours(tmp_path, graph=graph)
    with pytest.raises(BadModel, match="the graph gave 1 rows for"):
        load(folder, Settings())
