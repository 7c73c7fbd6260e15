"""OpenAI's own client, and LangChain's, against a real server; then what they never send."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from tokenizers import Tokenizer, processors

from service.api import build_api
from tests.conftest import (
    png,
    small_tokenizer,
    tone,
    write_colours,
    write_loudness,
    write_model,
    write_words,
)
from tests.servers import served
from tests.test_routes import problem, serving

RED = png((250, 10, 10))

WAVES = """
<ir_version: 9, opset_import: ["" : 18]>
waves (float[N,1000] wave) => (float[N,1000] vector) { vector = Abs(wave) }
"""
# `colours` with a tenth of a second of work or more, which cannot be done beforehand.
SLOW = """
<ir_version: 9, opset_import: ["" : 18]>
slow (uint8[N,8,8,3] pixels) => (float[N,3] logits, float[N,3] vector)
<int64[2] sides = {1, 2}, int64[2] square = {1000, 1000}, float zero = {0}> {
    floats = Cast<to = 1>(pixels)
    mean = ReduceMean<keepdims = 0>(floats, sides)
    level = ReduceMean<keepdims = 0>(floats)
    nought = Mul(level, zero)
    product0 = Expand(nought, square)
    PRODUCTS
    nothing = ReduceSum<keepdims = 0>(product5)
    vector = Add(mean, nothing)
    logits = Identity(vector)
}
""".replace(
    "PRODUCTS",
    "\n".join(f"product{n + 1} = MatMul(product{n}, product{n})" for n in range(5)),
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models: Path = tmp_path_factory.mktemp("models")
    write_colours(models)
    write_words(models)
    write_loudness(models)
    with served(models) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_texts_as_base64_which_is_what_the_client_asks_for(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="words", input=["sea", "red cat"])
    assert [item.index for item in answer.data] == [0, 1]
    assert answer.data[1].embedding == [0, 0, 0.5, 0, 0, 0.5, 0, 0]
    assert answer.model == "words"
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)


def test_texts_as_numbers(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="words", input="sea", encoding_format="float")
    assert answer.data[0].embedding == [0, 0, 0, 0, 0, 0, 0, 1]


def test_a_batch_of_64(client: openai.OpenAI) -> None:
    texts = ["red", "green", "blue", "sea"] * 16
    answer = client.embeddings.create(model="words", input=texts)
    found = [int(np.argmax(item.embedding)) for item in answer.data]
    assert found == [2, 3, 4, 7] * 16


def test_lists_of_tokens(client: openai.OpenAI) -> None:
    [one] = client.embeddings.create(model="words", input=[2, 5]).data
    assert one.embedding == [0, 0, 0.5, 0, 0, 0.5, 0, 0]
    two = client.embeddings.create(model="words", input=[[7], [2, 2]])
    assert [int(np.argmax(item.embedding)) for item in two.data] == [7, 2]
    assert two.usage.prompt_tokens == 3


def test_fewer_dimensions_are_of_length_one_again(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="words", input="red red cat blue", dimensions=4)
    np.testing.assert_allclose(answer.data[0].embedding, [0, 0, 1, 0])
    [item] = client.embeddings.create(model="words", input="red green sea", dimensions=4).data
    np.testing.assert_allclose(item.embedding, np.array([0, 0, 1, 1]) / np.sqrt(2), rtol=1e-6)


def test_pictures_as_data_uris(client: openai.OpenAI) -> None:
    uri = "data:image/png;base64," + base64.b64encode(RED).decode()
    answer = client.embeddings.create(model="colours", input=[uri, uri])
    assert [item.embedding for item in answer.data] == [[250, 10, 10]] * 2
    assert answer.usage.prompt_tokens == 0


def test_the_models_that_there_are(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["colours", "loudness", "words"]
    model = client.models.retrieve("words")
    assert (model.object, model.owned_by) == ("model", "sensorium")
    with pytest.raises(openai.NotFoundError, match="there is no model nothing"):
        client.models.retrieve("nothing")


@pytest.mark.parametrize(
    ("request_", "kind", "param"),
    [
        ({"model": "words", "input": ["sea", ""]}, openai.UnprocessableEntityError, None),
        ({"model": "nothing", "input": "sea"}, openai.NotFoundError, None),
        ({"model": "loudness", "input": "sea"}, openai.BadRequestError, None),
        ({"model": "words", "input": []}, openai.BadRequestError, "input"),
        ({"model": "words", "input": "sea", "dimensions": 9}, openai.BadRequestError, "dimensions"),
    ],
)
def test_a_bad_request_is_openai_s_error(
    client: openai.OpenAI, request_: Any, kind: type[openai.APIStatusError], param: str | None
) -> None:
    with pytest.raises(kind) as refused:
        client.embeddings.create(**request_)
    error = refused.value
    assert error.type == "invalid_request_error"
    assert error.param == param
    assert error.code in ("bad_request", "unsupported", "not_found", "unreadable")


def test_an_item_that_cannot_be_read_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="item 1: the text is empty"):
        client.embeddings.create(model="words", input=["sea", " "])


def test_langchain_embeds_documents(url: str) -> None:
    embeddings = OpenAIEmbeddings(
        model="words",
        openai_api_base=f"{url}/v1",
        openai_api_key=SecretStr("any"),
        check_embedding_ctx_length=False,  # else it sends the tokens of a tokenizer of OpenAI's
    )
    vectors = embeddings.embed_documents(["sea", "red"])
    assert [int(np.argmax(vector)) for vector in vectors] == [7, 2]
    assert int(np.argmax(embeddings.embed_query("dog"))) == 6


def test_langchain_sends_a_thousand_texts_at_once(url: str) -> None:
    embeddings = OpenAIEmbeddings(
        model="words",
        openai_api_base=f"{url}/v1",
        openai_api_key=SecretStr("any"),
        check_embedding_ctx_length=False,
    )
    assert embeddings.chunk_size == 1000  # its default
    vectors = embeddings.embed_documents(["sea", "red", "dog"] * 700)
    assert [int(np.argmax(vector)) for vector in vectors] == [7, 2, 6] * 700


def test_as_many_texts_as_openai_takes(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="words", input=["sea", "red"] * 1024)
    assert [item.index for item in answer.data] == list(range(2048))
    assert [int(np.argmax(item.embedding)) for item in answer.data] == [7, 2] * 1024
    with pytest.raises(openai.APIStatusError, match="2049 items; at most 2048"):
        client.embeddings.create(model="words", input=["sea"] * 2049)


def test_an_item_far_behind_that_cannot_be_read_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="item 1999: "):
        client.embeddings.create(model="words", input=[*["sea"] * 1999, " "])


@pytest.mark.parametrize(
    "more",
    [
        {"encoding_format": None},  # LiteLLM
        {"encoding_format": None, "dimensions": None, "user": None},
        {"encoding_format": "float", "user": "somebody"},
        {"extra": None},
        {},  # LlamaIndex, by OpenAI's client
    ],
)
def test_requests_as_other_clients_write_them(url: str, more: dict[str, Any]) -> None:
    body = {"model": "words", "input": ["sea"], **more}
    for kind in ("application/json", "application/json; charset=utf-8", "text/plain"):
        response = httpx.post(f"{url}/v1/embeddings", json=body, headers={"content-type": kind})
        [item] = response.json()["data"]
        assert int(np.argmax(item["embedding"])) == 7


def test_a_503_is_tried_again_by_the_client_itself(tmp_path: Path) -> None:
    """One batch runs, one item waits: who comes meanwhile is refused, and comes again."""
    write_colours(tmp_path, graph=SLOW)
    uri = "data:image/png;base64," + base64.b64encode(RED).decode()
    answers = []

    def ask(client: openai.OpenAI) -> None:
        answers.append(client.embeddings.create(model="colours", input=uri))

    limits = {"SENSORIUM_MAX_QUEUE": "1", "SENSORIUM_LANES": "1", "SENSORIUM_THREADS": "1"}
    with (
        served(tmp_path, env=limits) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=30) as client,
    ):
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        metrics = httpx.get(f"{url}/metrics").text
    assert len(answers) == 6
    assert 'sensorium_rejections_total{code="queue_full"}' in metrics


@pytest.fixture
async def plain(small_models: Path) -> AsyncIterator[httpx.AsyncClient]:
    write_model(
        small_models,
        WAVES,
        name="waves",
        preprocessing={"modality": "audio", "input": "wave", "sample_rate": 1000, "seconds": 1},
        tasks={"embed": {"output": "vector", "width": 1000}},
        example={"file": "example.wav", "tolerance": {"fp32": 1e-4}},
        files={"example.wav": tone(0.5)},
    )
    async with serving(small_models, max_items=3) as client:
        yield client


@pytest.mark.anyio
async def test_sounds_as_data_uris(plain: httpx.AsyncClient) -> None:
    uri = "data:audio/wav;base64," + base64.b64encode(tone(0.5)).decode()
    answer = (await plain.post("/v1/embeddings", json={"model": "waves", "input": uri})).json()
    assert max(answer["data"][0]["embedding"]) == pytest.approx(0.5, abs=0.01)
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("model", "given", "status", "sentence"),
    [
        ("words", 7, 400, "a string or a list of token ids"),
        ("words", [None], 400, "a string or a list of token ids"),
        ("words", [[1, "a"]], 400, "a string or a list of token ids"),
        ("words", [True], 400, "a string or a list of token ids"),
        ("words", [[]], 422, "one or more numbers, each below 8"),
        ("words", [1, 8], 422, "each below 8"),
        ("words", [-1], 422, "each below 8"),
        ("words", [1] * 17, 413, "17 tokens; at most 16"),
        ("words", ["sea"] * 2049, 413, "2049 items; at most 2048"),
        ("words", "\ud800", 422, "lone surrogate"),
        ("words", "data:image/png;base64,iVBORw0KGgo=", 422, "the text is a data URI"),
        ("colours", "data:image/png;base64,iVBORw0KGgo", 422, "the final = is missing"),
        ("colours", "data:image/png,%89PNG", 422, "PNG is damaged"),
        ("colours", "sea", 422, "not a data URI"),
        ("colours", "data:image/png;base64,%", 422, "not base64"),
        ("colours", "data:image/png;base64,AAAA", 422, "not a supported image"),
        ("colours", [1], 400, "colours reads no tokens"),
    ],
)
async def test_inputs_that_cannot_be_used(
    plain: httpx.AsyncClient, model: str, given: Any, status: int, sentence: str
) -> None:
    content = json.dumps({"model": model, "input": given})
    response = await plain.post("/v1/embeddings", content=content)
    code = {400: "bad_request", 413: "too_large", 422: "unreadable"}[status]
    code = "unsupported" if "reads no" in sentence else code
    assert sentence in problem(response, status, code)["detail"]


@pytest.mark.anyio
async def test_a_large_request_leaves_room_for_others(small_models: Path) -> None:
    api = build_api()
    async with serving(small_models, api, max_queue=16, lanes=1) as client:
        admission = api.state.sensorium.repository.pick("words").admission

        async def embed(texts: list[str]) -> httpx.Response:
            return await client.post("/v1/embeddings", json={"model": "words", "input": texts})

        large = asyncio.create_task(embed(["sea"] * 2048))
        inside = set()
        while not large.done():
            small = await embed(["red"])
            inside.add(admission._items)
            assert small.status_code == 200
        assert len((await large).json()["data"]) == 2048
        assert max(inside) <= 9


@pytest.mark.anyio
async def test_tokens_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    """As LangChain sends them by default: those of a tokenizer of OpenAI's."""
    tokenizer = Tokenizer.from_str(small_tokenizer().decode())
    tokenizer.post_processor = processors.TemplateProcessing(
        "red $A blue", special_tokens=[("red", 2), ("blue", 4)]
    )
    write_words(tmp_path, tokenizer=tokenizer.to_str().encode())
    async with serving(tmp_path) as client:

        async def embed(ids: list[int]) -> httpx.Response:
            return await client.post("/v1/embeddings", json={"model": "words", "input": ids})

        for ids in ([2, 7, 4], [2, 4]):
            assert (await embed(ids)).status_code == 200
        for ids in ([7], [2], [2, 7], [7, 4], [4, 7, 2], [7, 2, 4, 7]):
            detail = problem(await embed(ids), 422, "unreadable")["detail"]
            assert "check_embedding_ctx_length=False" in detail


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        '{"input": "a"}',
        '{"model": "words"}',
        '{"model": "words", "input": "a", "more": 1}',
        '{"model": "words", "input": "a", "encoding_format": "hex"}',
        '{"model": "words", "input": "a", "dimensions": 0}',
    ],
)
async def test_bodies_of_another_form(plain: httpx.AsyncClient, body: str) -> None:
    problem(await plain.post("/v1/embeddings", content=body), 400, "bad_request")
