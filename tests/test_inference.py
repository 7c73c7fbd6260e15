"""The Open Inference Protocol on small models: what goes in, what comes out, what is refused."""

import asyncio
import base64
import codecs
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.v2 import infer
from service.api.v2.datatypes import Datatype, from_binary, to_binary
from service.api.v2.infer import _highest
from service.errors import BadRequest, TooLarge
from service.inference.batch import BatchLimits
from service.inference.batching import Batcher
from service.metrics import ModelSeries
from service.model.types import Item, Result, Sample, TensorSample
from tests.conftest import png, tone, write_colours, write_mood, write_warmth
from tests.test_routes import serving

pytestmark = pytest.mark.anyio

RED, GREEN = png((250, 10, 10)), png((10, 250, 10))
HEADER = "Inference-Header-Content-Length"
PIXELS = np.array([[[[250, 10, 10]] * 8] * 8, [[[10, 10, 250]] * 8] * 8], np.uint8)

# Its outputs beside those of `colours`: one of each datatype, one without a row for each picture.
KINDS = """
<ir_version: 9, opset_import: ["" : 18]>
kinds (uint8[N,8,8,3] pixels) => (
    float[N,3] logits, float[N,3] vector, bool[N,3] flags, int8[N,3] int8, int16[N,3] int16,
    int32[N,3] int32, int64[N,3] int64, uint8[N,3] uint8, uint16[N,3] uint16, uint32[N,3] uint32,
    uint64[N,3] uint64, float16[N,3] half, double[N,3] double, float[N,3] broken, float[3] mixed)
<int64[2] sides = {1, 2}, int64[1] batch = {0}, float zero = {0}, float hundred = {100}> {
    floats = Cast<to = 1>(pixels)
    vector = ReduceMean<keepdims = 0>(floats, sides)
    logits = Identity(vector)
    flags = Greater(vector, hundred)
    tenth = Div(vector, hundred)
    int8 = Cast<to = 3>(tenth)
    int16 = Cast<to = 5>(vector)
    int32 = Cast<to = 6>(vector)
    int64 = Cast<to = 7>(vector)
    uint8 = Cast<to = 2>(vector)
    uint16 = Cast<to = 4>(vector)
    uint32 = Cast<to = 12>(vector)
    uint64 = Cast<to = 13>(vector)
    half = Cast<to = 10>(vector)
    double = Cast<to = 11>(vector)
    nought = Mul(vector, zero)
    broken = Div(nought, nought)
    mixed = ReduceMean<keepdims = 0>(vector, batch)
}
"""

# It fails on a picture without much red in it, which it would look up behind a table's end.
PICKY = """
<ir_version: 9, opset_import: ["" : 18]>
picky (uint8[N,8,8,3] pixels) => (float[N,3] logits, float[N,3] vector)
<int64[2] sides = {1, 2}, int64[1] zero = {0}, int64[1] one = {1}, float[100] table = {TABLE},
 int64[1] all = {299}, float[3] ones = {1, 1, 1}> {
    floats = Cast<to = 1>(pixels)
    vector = ReduceMean<keepdims = 0>(floats, sides)
    reds = Slice(vector, zero, one, one)
    whole = Cast<to = 7>(reds)
    places = Sub(all, whole)
    found = Gather(table, places)
    logits = Mul(found, ones)
}
""".replace("TABLE", ", ".join("0" * 100))


@pytest.fixture
async def client(small_models: Path) -> AsyncIterator[httpx.AsyncClient]:
    write_colours(small_models, "kinds", graph=KINDS)
    async with serving(small_models) as client:
        yield client


def tensor(name: str, datatype: str, shape: list[int], **content: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **content}


def words(*texts: str) -> dict[str, Any]:
    return {"inputs": [tensor("text", "BYTES", [len(texts), 1], data=list(texts))]}


def pixels(values: Any = PIXELS) -> dict[str, Any]:
    return {"inputs": [tensor("pixels", "UINT8", list(values.shape), data=values.tolist())]}


def binary(document: dict[str, Any], *sections: bytes) -> dict[str, Any]:
    """The arguments of a request whose tensors are behind its JSON."""
    for given, section in zip(document["inputs"], sections, strict=True):
        given.setdefault("parameters", {"binary_data_size": len(section)})
    header = json.dumps(document).encode()
    return {"content": header + b"".join(sections), "headers": {HEADER: str(len(header))}}


def files(*contents: bytes, **more: Any) -> dict[str, Any]:
    data = to_binary(np.array(contents, object))
    return binary({"inputs": [tensor("image", "BYTES", [len(contents), 1])], **more}, data)


async def ask(client: httpx.AsyncClient, model: str, **request: Any) -> httpx.Response:
    return await client.post(f"/v2/models/{model}/infer", **request)


def outputs(response: httpx.Response) -> dict[str, Any]:
    """The tensors of an answer, by name, from its JSON and from behind it."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(HEADER, len(response.content)))
    rest = memoryview(response.content)[length:]
    found = {}
    for output in json.loads(response.content[:length])["outputs"]:
        if "data" in output:
            found[output["name"]] = np.array(output["data"]).reshape(output["shape"])
        else:
            size = output["parameters"]["binary_data_size"]
            datatype: Datatype = output["datatype"]
            found[output["name"]] = from_binary(datatype, output["shape"], rest[:size])
            rest = rest[size:]
    assert not rest
    return found


def refusal(response: httpx.Response, status: int = 400) -> str:
    """The sentence of an error, its one shape checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert list(document) == ["error"]
    assert response.headers["x-request-id"]
    sentence: str = document["error"]
    return sentence


async def test_texts_in_json(client: httpx.AsyncClient) -> None:
    response = await ask(client, "words", json=words("sea", "red cat"))
    assert response.json() == {
        "model_name": "words",
        "model_version": "1",
        "outputs": [
            tensor("truncated", "BOOL", [2, 1], data=[False, False]),
            tensor("vector", "FP32", [2, 8], data=[0] * 7 + [1] + [0, 0, 0.5, 0, 0, 0.5, 0, 0]),
        ],
    }


async def test_pictures_as_bytes(client: httpx.AsyncClient) -> None:
    found = outputs(await ask(client, "colours", **files(RED, GREEN)))
    assert list(found) == ["truncated", "labels", "scores", "vector"]
    assert found["labels"].tolist() == [["red"], ["green"]]
    assert found["vector"].tolist() == [[250, 10, 10], [10, 250, 10]]
    np.testing.assert_allclose(found["scores"].sum(axis=1), 1, rtol=1e-6)


async def test_sounds_have_labels_and_scores(client: httpx.AsyncClient) -> None:
    data = to_binary(np.array([tone(0.9), tone(0.001, seconds=2)], object))
    request = binary({"inputs": [tensor("audio", "BYTES", [2, 1])]}, data)
    found = outputs(await ask(client, "loudness", **request))
    assert found["labels"].tolist() == [["loud"], ["silent"]]
    assert found["truncated"].tolist() == [[False], [True]]


async def test_the_graph_s_own_tensors(client: httpx.AsyncClient) -> None:
    found = outputs(await ask(client, "colours:tensors", json=pixels()))
    np.testing.assert_allclose(found["vector"], [[250, 10, 10], [10, 10, 250]])
    np.testing.assert_allclose(found["logits"], [[25, 1, 1], [1, 1, 25]])
    ids = {"inputs": [
        tensor("input_ids", "INT64", [1, 3], data=[2, 5, 0]),
        tensor("attention_mask", "INT64", [1, 3], data=[1, 1, 0]),
    ]}  # fmt: skip
    found = outputs(await ask(client, "words:tensors", json=ids))
    assert found["vector"].tolist() == [[0, 0, 0.5, 0, 0, 0.5, 0, 0]]


async def test_files_and_tensors_of_a_head(small_models: Path) -> None:
    write_warmth(small_models)
    write_mood(small_models)
    async with serving(small_models) as client:
        found = outputs(await ask(client, "warmth", **files(RED)))
        assert found["labels"].tolist() == [["warm"]]
        vector = {"inputs": [tensor("vector", "FP32", [1, 3], data=[1, 2, 3])]}
        found = outputs(await ask(client, "warmth:tensors", json=vector))
        assert found["logits"].tolist() == [[1, 3]]
        both = files(RED)
        text = tensor("text", "BYTES", [1, 1], data=["sea"])
        header = json.loads(both["content"][: int(both["headers"][HEADER])])
        header["inputs"].append(text)
        data = to_binary(np.array([RED], object))
        encoded = json.dumps(header).encode()
        response = await ask(
            client, "mood", content=encoded + data, headers={HEADER: str(len(encoded))}
        )
        shares = 256 * outputs(response)["scores"]
        assert shares.tolist() == [[250, 10, 10, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]]
        alone = outputs(await ask(client, "mood", json=words("sea")))
        assert (256 * alone["scores"]).tolist() == [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]]


async def test_every_datatype_comes_back(client: httpx.AsyncClient) -> None:
    document = {**pixels(), "parameters": {"binary_data_output": True}}
    found = outputs(await ask(client, "kinds:tensors", json=document))
    assert found["flags"].tolist() == [[True, False, False], [False, False, True]]
    assert found["int8"].tolist() == [[2, 0, 0], [0, 0, 2]]
    names = ["int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "half", "double"]
    for name in names:
        assert found[name].tolist() == [[250, 10, 10], [10, 10, 250]], name
    dtypes = {name: str(found[name].dtype) for name in names}
    assert dtypes == {**{name: name for name in names}, "half": "float16", "double": "float64"}
    assert np.isnan(found["broken"]).all()
    assert "mixed" not in found, "it has no row for each picture"


async def test_the_id_comes_back(client: httpx.AsyncClient) -> None:
    response = await ask(client, "words", json={**words("sea"), "id": "abc"})
    assert response.json()["id"] == "abc"
    assert "id" not in (await ask(client, "words", json=words("sea"))).json()


async def test_outputs_that_are_asked_for_in_their_order(client: httpx.AsyncClient) -> None:
    wanted = [{"name": "vector"}, {"name": "labels"}]
    response = await ask(client, "colours", **files(RED, outputs=wanted))
    assert list(outputs(response)) == ["vector", "labels"]
    assert HEADER not in response.headers


async def test_an_output_s_own_option_goes_before_the_request_s(client: httpx.AsyncClient) -> None:
    for whole in (True, False):
        wanted = [
            {"name": "vector", "parameters": {"binary_data": True}},
            {"name": "scores", "parameters": {"binary_data": False}},
            {"name": "labels"},
        ]
        request = files(RED, outputs=wanted, parameters={"binary_data_output": whole})
        response = await ask(client, "colours", **request)
        header = json.loads(response.content[: int(response.headers[HEADER])])
        as_bytes = {output["name"]: "parameters" in output for output in header["outputs"]}
        assert as_bytes == {"vector": True, "scores": False, "labels": whole}
        assert response.headers["content-type"] == "application/octet-stream"
        assert outputs(response)["vector"].tolist() == [[250, 10, 10]]


async def test_the_highest_classes_of_an_output(client: httpx.AsyncClient) -> None:
    wanted = [{"name": "scores", "parameters": {"classification": 2}}]
    found = outputs(await ask(client, "colours", **files(GREEN, RED, outputs=wanted)))
    assert found["scores"].tolist() == [
        ["1.000000:1:green", "0.000000:0:red"],
        ["1.000000:0:red", "0.000000:1:green"],
    ]
    wanted = [
        {"name": "logits", "parameters": {"classification": 1}},
        {"name": "uint8", "parameters": {"classification": 9}},
    ]
    request = {**pixels(), "outputs": wanted}
    found = outputs(await ask(client, "kinds:tensors", json=request))
    assert found["logits"].tolist() == [["250.000000:0:red"], ["250.000000:2:blue"]]
    assert found["uint8"].tolist() == [["250:0", "10:1", "10:2"], ["250:2", "10:0", "10:1"]]


def test_of_what_is_no_number_none_is_the_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRequest, match="NaN or infinity"):
        _highest(np.array([[0, 1], [np.nan, 1]], np.float32), 1, [])
    monkeypatch.setattr(infer, "MAX_LABELS", 3)
    assert _highest(np.ones((3, 2), np.int64), 1, []).shape == (3, 1)
    with pytest.raises(TooLarge, match="more than 3 labels"):
        _highest(np.ones((2, 2), np.int64), 9, [])


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compression_both_ways(client: httpx.AsyncClient, encoding: str) -> None:
    request = files(*[RED, GREEN] * 60)
    content = request["content"]
    packed = gzip.compress(content) if encoding == "gzip" else zlib.compress(content)
    headers = {**request["headers"], "content-encoding": encoding, "accept-encoding": encoding}
    response = await ask(client, "colours", content=packed, headers=headers)
    assert response.headers["content-encoding"] == encoding
    assert int(response.headers["content-length"]) < len(response.content)
    assert outputs(response)["vector"].tolist() == [[250, 10, 10], [10, 250, 10]] * 60


@pytest.mark.parametrize(
    ("accepted", "used"),
    [
        ("deflate, gzip;q=0.5", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("GZIP", "gzip"),
        ("gzip;q=0", None),
        ("br", None),
        ("gzip;q=x", None),
        ("identity", None),
    ],
)
async def test_the_encoding_that_is_liked_best(
    client: httpx.AsyncClient, accepted: str, used: str | None
) -> None:
    request = files(*[RED] * 20)
    request["headers"]["accept-encoding"] = accepted
    response = await ask(client, "colours", **request)
    assert response.headers.get("content-encoding") == used
    assert len(outputs(response)["vector"]) == 20


async def test_a_small_answer_is_not_compressed(client: httpx.AsyncClient) -> None:
    headers = {"accept-encoding": "gzip"}
    response = await ask(client, "words", json=words("sea"), headers=headers)
    assert "content-encoding" not in response.headers


async def test_damaged_and_endless_compression_is_refused(small_models: Path) -> None:
    whole = gzip.compress(json.dumps(words("sea")).encode())
    bomb = gzip.compress(b" " * 100_000)
    async with serving(small_models, max_body_bytes=4096) as client:
        for body, encoding, status, sentence in [
            (whole[:-4], "gzip", 400, "is cut off"),
            (whole + b"x", "gzip", 400, "is cut off"),
            (whole, "deflate", 400, "not deflate"),
            (b"", "gzip", 400, "is cut off"),
            (bomb, "gzip", 413, "inflated body exceeds 4,096 bytes"),
            (whole, "br", 415, "send gzip or deflate"),
        ]:
            headers = {"content-encoding": encoding}
            response = await ask(client, "words", content=body, headers=headers)
            assert sentence in refusal(response, status)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"inputs": []}, "inputs"),
        ({"more": 1}, "more"),
        ({"id": 7}, "id"),
        ({"parameters": {"priority": 1}}, "parameters.priority"),
        ({"parameters": {"sequence_id": 1}}, "parameter sequence_id is unknown"),
        ({"parameters": {"timeout": -1}}, "parameters.timeout"),
        ({"parameters": {"timeout": 10**12}}, "parameters.timeout"),
        ({"outputs": [{"name": "colour"}]}, "no output colour; it has: truncated, vector"),
        ({"outputs": [{"name": "vector"}] * 2}, "requested twice"),
        ({"outputs": [{"name": "vector", "parameters": {"classification": 0}}]}, "classification"),
        ({"outputs": [{"name": "truncated", "parameters": {"classification": 1}}]}, "no numbers"),
        ({"outputs": [{"name": "vector", "parameters": {"shared_memory_region": "x"}}]}, "shared"),
    ],
)
async def test_a_request_that_cannot_be_met_says_what_to_change(
    client: httpx.AsyncClient, change: dict[str, Any], sentence: str
) -> None:
    response = await ask(client, "words", json={**words("sea"), **change})
    assert sentence in refusal(response)


async def test_a_priority_of_nought_is_none(client: httpx.AsyncClient) -> None:
    document = {**words("sea"), "parameters": {"priority": 0}, "model_name": "words"}
    assert len(outputs(await ask(client, "words", json=document))["vector"]) == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "picture"}, "no input picture; it has: pixels"),
        ({"shape": [2, 8, 24]}, "pixels must be UINT8[-1, 8, 8, 3], not UINT8[2, 8, 24]"),
        ({"shape": [2, 8, 3, 8]}, "pixels must be UINT8[-1, 8, 8, 3], not UINT8[2, 8, 3, 8]"),
        ({"shape": [3, 8, 8, 3]}, "cannot have 384 elements"),
        ({"shape": [0, 8, 8, 3], "data": []}, "one or more"),
        ({"shape": []}, "inputs.0.shape"),
        ({"shape": [-2, 8, 8, 3]}, "inputs.0.shape"),
        ({"datatype": "INT32"}, "pixels must be UINT8[-1, 8, 8, 3], not INT32[2, 8, 8, 3]"),
        ({"datatype": "FP16"}, "JSON cannot represent FP16"),
        ({"datatype": "BF16"}, "inputs.0.datatype"),
        ({"data": None}, "give either data or binary_data_size"),
        ({"parameters": {"binary_data_size": 3}}, "give either data or binary_data_size"),
        ({"data": [300] * 384}, "out of range for UINT8"),
    ],
)
async def test_a_tensor_that_does_not_fit_is_refused(
    client: httpx.AsyncClient, changes: dict[str, Any], sentence: str
) -> None:
    document = pixels()
    document["inputs"][0].update(changes)
    assert sentence in refusal(await ask(client, "colours:tensors", json=document))


async def test_inputs_must_be_there_once_and_of_one_batch(client: httpx.AsyncClient) -> None:
    ids = tensor("input_ids", "INT64", [2, 2], data=[2, 3, 4, 5])
    for others, sentence in [
        ([], "also needs input attention_mask"),
        ([ids], "input_ids is given twice"),
        ([tensor("attention_mask", "INT64", [1, 2], data=[1, 1])], "the same number of items"),
    ]:
        document = {"inputs": [ids, *others]}
        assert sentence in refusal(await ask(client, "words:tensors", json=document))


@pytest.mark.parametrize(("ids", "mask"), [([2, 3], [1, 1, 1]), ([], [])])
async def test_a_text_s_tensors_are_of_one_length(
    client: httpx.AsyncClient, ids: list[int], mask: list[int]
) -> None:
    document = {"inputs": [
        tensor("input_ids", "INT64", [1, len(ids)], data=ids),
        tensor("attention_mask", "INT64", [1, len(mask)], data=mask),
    ]}  # fmt: skip
    sentence = refusal(await ask(client, "words:tensors", json=document))
    assert "the same number of tokens, one or more" in sentence


async def test_tensors_on_which_the_graph_fails_are_their_caller_s_fault(
    small_models: Path,
) -> None:
    write_colours(small_models, "picky", graph=PICKY)
    async with serving(small_models) as client:
        response = await ask(client, "picky:tensors", json=pixels())
        assert refusal(response, 422).startswith("item 1: the model failed on this input")
        good = await ask(client, "picky:tensors", json=pixels(PIXELS[:1]))
        assert outputs(good)["logits"].shape == (1, 3)


async def test_more_tokens_than_the_model_reads_are_refused(client: httpx.AsyncClient) -> None:
    def row(length: int) -> dict[str, Any]:
        names = ("input_ids", "attention_mask")
        return {"inputs": [tensor(n, "INT64", [1, length], data=[1] * length) for n in names]}

    assert outputs(await ask(client, "words:tensors", json=row(16)))
    sentence = refusal(await ask(client, "words:tensors", json=row(17)), 413)
    assert "17 tokens; at most 16" in sentence


@pytest.mark.parametrize(
    ("size", "extra", "length", "sentence"),
    [
        (384, b"x", None, "1 bytes after the JSON belong to no input"),
        (383, b"", None, "has 384 bytes, not 383"),
        (0, b"", None, "has 384 bytes, not 0"),
        (385, b"", None, "384 bytes are left"),
        (384, b"", "0", "not JSON"),
        (384, b"", "9999999", "must be a number of bytes up to"),
        (384, b"", "-1", "must be a number"),
        (384, b"", "many", "must be a number"),
    ],
)
async def test_sections_of_a_wrong_length_are_refused(
    client: httpx.AsyncClient, size: int, extra: bytes, length: str | None, sentence: str
) -> None:
    given = tensor("pixels", "UINT8", [2, 8, 8, 3], parameters={"binary_data_size": size})
    request = binary({"inputs": [given]}, PIXELS.tobytes())
    request["content"] += extra
    request["headers"][HEADER] = length or request["headers"][HEADER]
    assert sentence in refusal(await ask(client, "colours:tensors", **request))


async def test_json_that_is_none_is_refused(client: httpx.AsyncClient) -> None:
    for body in (b"", b"{", b"[]", b"\xff", b"[" * 50_000, b'{"inputs": [{"name": "\\ud800"}]}'):
        refusal(await ask(client, "words", content=body))
    surrogate = json.dumps(words("\ud800")).encode()
    refusal(await ask(client, "words", content=surrogate))


async def test_a_file_that_cannot_be_read_is_named(client: httpx.AsyncClient) -> None:
    response = await ask(client, "colours", **files(RED, b"no picture", GREEN))
    assert refusal(response, 422).startswith("item 1: not a supported image")
    assert refusal(await ask(client, "words", json=words("")), 422).startswith("item 0: ")


async def test_what_json_cannot_hold_is_refused(client: httpx.AsyncClient) -> None:
    for name, sentence in (("broken", "NaN"), ("half", "FP16")):
        document = {**pixels(), "outputs": [{"name": name}]}
        response = await ask(client, "kinds:tensors", json=document)
        assert f"output {name}: " in refusal(response)
        assert sentence in refusal(response)


async def test_paths_models_and_versions_that_there_are_not(client: httpx.AsyncClient) -> None:
    for path in ("/v2/nothing", "/v2/models/nothing", "/v2/models/nothing/ready",
                 "/v2/models/words/versions/2", "/v2/models/words:tensor"):  # fmt: skip
        refusal(await client.get(path), 404)
    refusal(await ask(client, "words/versions/2", json=words("sea")), 404)
    refusal(await client.get("/v2/models/words/infer"), 405)


async def test_a_version_in_the_path(small_models: Path) -> None:
    write_colours(small_models, version=2)
    async with serving(small_models) as client:
        for path, version in (("colours", "2"), ("colours/versions/1", "1")):
            answer = (
                await ask(client, f"{path}", **files(RED, outputs=[{"name": "labels"}]))
            ).json()
            assert answer["model_version"] == version
        metadata = (await client.get("/v2/models/colours/versions/1")).json()
        assert metadata["versions"] == ["1", "2"]


async def test_bodies_and_batches_beyond_the_limits_are_refused(small_models: Path) -> None:
    async with serving(small_models, max_items=3, max_body_bytes=2048) as client:
        assert "the limit is 3" in refusal(
            await ask(client, "words", json=words(*["sea"] * 4)), 413
        )
        refusal(await ask(client, "words", content=b"x" * 2049), 413)
        headers = {"content-length": "many"}
        refusal(await ask(client, "words", content=b"x", headers=headers), 400)


async def test_a_deadline_in_microseconds(small_models: Path) -> None:
    large = png((250, 10, 10), (3000, 3000))  # takes longer than a millisecond to decode
    async with serving(small_models) as client:
        late = files(large, parameters={"timeout": 1000})
        refusal(await ask(client, "colours", **late), 504)
        enough = files(large, parameters={"timeout": 60_000_000})
        assert len(outputs(await ask(client, "colours", **enough))["vector"]) == 1


async def test_a_full_queue_is_503_and_says_when_to_return(small_models: Path) -> None:
    async with serving(small_models, max_queue=1, lanes=1) as client:
        several = [ask(client, "colours:tensors", json=pixels()) for _ in range(64)]
        full = [r for r in await asyncio.gather(*several) if r.status_code != 200]
        assert "wait already" in refusal(full[0], 503)
        assert int(full[0].headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": None},
        {"outputs": None},
        {"id": None, "model_name": None},
        {"parameters": {"binary_data_output": None, "timeout": None, "priority": None}},
        {"parameters": {"content_type": "str"}},
        {"parameters": {"content_type": "np"}},
        {"outputs": [{"name": "vector", "parameters": None}]},
        {"outputs": [{"name": "vector", "parameters": {"classification": None}}]},
        {"outputs": [{"name": "vector", "parameters": {"content_type": "np"}}]},
        {"anything": None},
        {"inputs": [{**words("sea")["inputs"][0], "parameters": None}]},
        {"inputs": [{**words("sea")["inputs"][0], "parameters": {"binary_data_size": None}}]},
        {"inputs": [{**words("sea")["inputs"][0], "parameters": {"content_type": "str"}}]},
        {"inputs": [{**words("sea")["inputs"][0], "shape": [1]}]},
        {"inputs": [tensor("text", "BYTES", [1], data=["c2Vh"],
                           parameters={"content_type": "base64"})]},
        {"inputs": [tensor("text", "BYTES", [1], data=["c2Vh"])],
         "parameters": {"content_type": "base64"}},
        {"inputs": [tensor("text", "BYTES", [1], data=["data:,s%65a"],
                           parameters={"content_type": "base64"})]},
    ],
)  # fmt: skip
async def test_what_other_clients_send_beside_a_text(
    client: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    document = {**words("sea"), **change}
    for body in (json.dumps(document).encode(), codecs.BOM_UTF8 + json.dumps(document).encode()):
        response = await ask(client, "words", content=body)
        np.testing.assert_array_equal(outputs(response)["vector"], [[0] * 7 + [1]])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"parameter": {}}, "parameter parameter is unknown; did you mean parameters?"),
        ({"parameters": {"binary_output": True}}, "did you mean binary_data_output?"),
        ({"parameters": {"content_type": "pd"}}, "parameters.content_type"),
        ({"inputs": [{**words("sea")["inputs"][0], "dataType": "BYTES"}]}, "mean datatype?"),
        ({"inputs": [{**words("sea")["inputs"][0], "datatype": None}]}, "inputs.0.datatype"),
        ({"inputs": [{**words("sea")["inputs"][0], "shape": [1, 1, 1]}]}, "BYTES[-1, 1]"),
        ({"inputs": [{**words("sea")["inputs"][0], "shape": []}]}, "inputs.0.shape"),
        ({"inputs": None}, "inputs: Field required"),
        ({"inputs": [None]}, "inputs.0"),
    ],
)
async def test_what_other_clients_send_wrong_is_told(
    client: httpx.AsyncClient, change: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal(await ask(client, "words", json={**words("sea"), **change}))


async def test_an_image_in_json(client: httpx.AsyncClient) -> None:
    data = [
        base64.b64encode(RED).decode(),
        "data:image/png;base64," + base64.b64encode(GREEN).decode(),
    ]
    given = tensor("image", "BYTES", [2], data=data, parameters={"content_type": "base64"})
    found = outputs(await ask(client, "colours", json={"inputs": [given]}))
    assert found["labels"].ravel().tolist() == ["red", "green"]
    given = tensor("image", "BYTES", [1], data=["%"], parameters={"content_type": "base64"})
    response = await ask(client, "colours", json={"inputs": [given]})
    assert refusal(response, 422).startswith("input image: not base64")


async def test_a_request_does_not_fill_the_queue_by_itself(small_models: Path) -> None:
    async with serving(small_models, max_queue=1, lanes=1) as client:
        response = await ask(client, "colours:tensors", json=pixels(np.concatenate([PIXELS] * 8)))
        assert len(outputs(response)["vector"]) == 16


async def test_metadata_of_both_forms(client: httpx.AsyncClient) -> None:
    server = (await client.get("/v2")).json()
    assert server["name"] == "sensorium"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(server["extensions"])
    assert (await client.get("/v2/models/colours")).json() == {
        "name": "colours",
        "versions": ["1"],
        "platform": "sensorium",
        "inputs": [tensor("image", "BYTES", [-1, 1])],
        "outputs": [
            tensor("truncated", "BOOL", [-1, 1]),
            tensor("labels", "BYTES", [-1, 1]),
            tensor("scores", "FP32", [-1, 3]),
            tensor("vector", "FP32", [-1, 3]),
        ],
    }
    assert (await client.get("/v2/models/words:tensors")).json() == {
        "name": "words:tensors",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            tensor("input_ids", "INT64", [-1, -1]),
            tensor("attention_mask", "INT64", [-1, -1]),
        ],
        "outputs": [tensor("vector", "FP32", [-1, 8])],
    }


async def test_configuration_as_triton_writes_it(small_models: Path) -> None:
    write_mood(small_models)
    async with serving(small_models, lanes=3, max_items=77, max_queue=99) as client:
        config = (await client.get("/v2/models/words:tensors/config")).json()
        assert config["name"] == "words:tensors"
        assert config["max_batch_size"] == 77
        ids = {"name": "input_ids", "data_type": "TYPE_INT64", "dims": [-1], "optional": False}
        assert config["input"][0] == ids
        assert config["output"] == [{"name": "vector", "data_type": "TYPE_FP32", "dims": [8]}]
        assert config["dynamic_batching"]["preferred_batch_size"] == [8]
        assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 99
        assert config["instance_group"][0]["count"] == 3
        mood = (await client.get("/v2/models/mood/versions/1/config")).json()
        assert [given["optional"] for given in mood["input"]] == [True, True]
        assert mood["input"][0]["data_type"] == "TYPE_STRING"


async def test_readiness(small_models: Path) -> None:
    write_colours(small_models, "broken", change=lambda m: m["graphs"][0].update(sha256="0" * 64))
    async with serving(small_models) as client:
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/colours/ready",
                     "/v2/models/colours:tensors/versions/1/ready"):  # fmt: skip
            assert (await client.get(path)).status_code == 200
        broken = await client.get("/v2/models/broken/ready")
        assert (broken.status_code, broken.json()) == (503, {"ready": False, "name": "broken"})
        assert "sha256" in refusal(await client.get("/v2/models/broken"), 503)
        assert "sha256" in refusal(await ask(client, "broken", **files(RED)), 503)


async def test_statistics_grow_by_what_was_done(client: httpx.AsyncClient) -> None:
    async def statistics(model: str = "loudness") -> Any:
        [of_model] = (await client.get(f"/v2/models/{model}/stats")).json()["model_stats"]
        return of_model

    def count(of_model: Any, stage: str) -> int:
        number: int = of_model["inference_stats"][stage]["count"]
        return number

    before = await statistics()
    sounds = [tone(0.5)] * 3
    for contents in (sounds, sounds[:2], [b"no sound"]):
        data = to_binary(np.array(contents, object))
        await ask(
            client,
            "loudness",
            **binary({"inputs": [tensor("audio", "BYTES", [len(contents), 1])]}, data),
        )
    after = await statistics()
    grown = {
        stage: count(after, stage) - count(before, stage) for stage in after["inference_stats"]
    }
    assert grown == {
        "success": 5, "fail": 1, "queue": 5, "compute_input": 5, "compute_infer": 5,
        "compute_output": 5, "cache_hit": 0, "cache_miss": 0,
    }  # fmt: skip
    assert after["inference_count"] - before["inference_count"] == 5
    runs = sum(size["compute_infer"]["count"] for size in after["batch_stats"])
    assert after["execution_count"] == runs
    items = sum(
        size["batch_size"] * size["compute_infer"]["count"] for size in after["batch_stats"]
    )
    assert after["inference_count"] == items
    assert all(stat["ns"] > 0 for stat in after["inference_stats"].values() if stat["count"])
    assert after["last_inference"] > max(1.7e12, before["last_inference"])
    assert {**await statistics("loudness:tensors"), "name": "loudness"} == after
    everything = (await client.get("/v2/models/stats")).json()["model_stats"]
    assert {stat["name"] for stat in everything} >= {"colours", "colours:tensors", "words"}


async def test_the_parts_count_the_same_items(client: httpx.AsyncClient) -> None:
    """As perf_analyzer insists: with two tasks of one item, and without files to decode."""
    await ask(client, "colours", **files(RED, RED))
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    given = [tensor("pixels", "UINT8", list(pixels.shape))]
    await ask(client, "colours:tensors", **binary({"inputs": given}, pixels.tobytes()))
    [of_model] = (await client.get("/v2/models/colours/stats")).json()["model_stats"]
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    counts = {of_model["inference_stats"][part]["count"] for part in parts}
    assert len(counts) == 1


def row(length: int, output: str = "vector") -> TensorSample:
    return TensorSample({"x": np.ones(length)}, (output,), cost=length)


async def test_only_rows_of_one_shape_and_one_wish_share_a_batch() -> None:
    batches: list[list[Any]] = []
    begun = asyncio.Event()
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def compute(items: Any, _: bool) -> list[Result]:
        batches.append([item.key for item in items])
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
        return [Result({"size": np.array(len(items))})] * len(items)

    items: list[Item] = [
        row(2), row(3), row(2), row(2, "logits"), Sample(np.ones(2), cost=2), row(3), row(2),
    ]  # fmt: skip
    async with Batcher(compute, BatchLimits(items=8), 1, ModelSeries("rows", 1)) as batcher:
        first = asyncio.create_task(batcher.submit(row(9)))
        await begun.wait()
        others = [asyncio.create_task(batcher.submit(item)) for item in items]
        await asyncio.sleep(0)
        go_on.set()
        replies = await asyncio.gather(*others)
        await first
    assert all(len(set(keys)) == 1 for keys in batches)
    assert [int(reply.row["size"]) for reply in replies] == [3, 2, 3, 1, 1, 2, 3]


async def test_callers_with_batches_of_their_own_share_a_run(client: httpx.AsyncClient) -> None:
    async def runs() -> dict[int, int]:
        [stats] = (await client.get("/v2/models/colours/stats")).json()["model_stats"]
        return {of["batch_size"]: of["compute_infer"]["count"] for of in stats["batch_stats"]}

    before = await runs()
    answers = await asyncio.gather(
        *(ask(client, "colours:tensors", json=pixels()) for _ in range(20))
    )
    assert all(len(outputs(answer)["vector"]) == 2 for answer in answers)
    grown = {size: count - before.get(size, 0) for size, count in (await runs()).items()}
    assert sum(size * count for size, count in grown.items()) == 40
    assert any(size > 2 and count for size, count in grown.items()), grown
