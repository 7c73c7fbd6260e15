"""NVIDIA's own client, as PyPI has it, against a real server."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as http
import tritonclient.http.aio as aio

from tests.conftest import png, write_colours, write_loudness, write_words
from tests.servers import served

RED, GREEN, BLUE = png((250, 10, 10)), png((10, 250, 10)), png((10, 10, 250))
PIXELS = np.array([[[[250, 10, 10]] * 8] * 8, [[[10, 10, 250]] * 8] * 8], np.uint8)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models: Path = tmp_path_factory.mktemp("models")
    write_colours(models)
    write_colours(models, version=2)
    write_words(models)
    write_loudness(models)
    with served(models) as url:
        yield url.removeprefix("http://")


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with http.InferenceServerClient(address, concurrency=8) as client:
        yield client


def files(*contents: bytes) -> Any:
    return tensor("image", np.array([[content] for content in contents], object), "BYTES")


def tensor(name: str, values: Any, datatype: str, binary: bool = True) -> Any:
    given = http.InferInput(name, list(values.shape), datatype)
    return given.set_data_from_numpy(values, binary_data=binary)


def test_the_server_and_its_models_are_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colours")
    assert client.is_model_ready("colours:tensors", "1")
    assert not client.is_model_ready("colours", "3")
    assert not client.is_model_ready("nothing")


def test_metadata_and_configuration(client: Any) -> None:
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("colours:tensors", "2")
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
    assert client.get_model_config("colours")["max_batch_size"] == 256


@pytest.mark.parametrize("binary", [True, False])
def test_a_batch_of_tensors_with_several_outputs(client: Any, binary: bool) -> None:
    outputs = [http.InferRequestedOutput(name, binary) for name in ("vector", "logits")]
    result = client.infer("colours:tensors", [tensor("pixels", PIXELS, "UINT8", binary)],
                          outputs=outputs, request_id="42")  # fmt: skip
    assert result.get_response()["id"] == "42"
    np.testing.assert_allclose(result.as_numpy("vector"), [[250, 10, 10], [10, 10, 250]])
    np.testing.assert_allclose(result.as_numpy("logits"), [[25, 1, 1], [1, 1, 25]])


def test_a_batch_of_files_with_all_outputs(client: Any) -> None:
    result = client.infer("colours", [files(RED, GREEN, BLUE)])
    assert result.as_numpy("labels").tolist() == [[b"red"], [b"green"], [b"blue"]]
    assert result.as_numpy("scores").shape == (3, 3)
    assert result.as_numpy("vector").tolist() == [[250, 10, 10], [10, 250, 10], [10, 10, 250]]
    assert result.as_numpy("truncated").tolist() == [[False]] * 3


def test_texts_in_json(client: Any) -> None:
    texts = tensor("text", np.array([["sea"], ["red red"]], object), "BYTES", binary=False)
    outputs = [http.InferRequestedOutput("vector", binary_data=False)]
    result = client.infer("words", [texts], outputs=outputs)
    assert result.as_numpy("vector").argmax(axis=1).tolist() == [7, 2]


@pytest.mark.parametrize("binary", [True, False])
def test_texts_without_a_second_dimension(client: Any, binary: bool) -> None:
    texts = np.array([b"sea", b"red"], object)
    given = tensor("text", texts, "BYTES", binary)
    result = client.infer("words", [given], parameters={"content_type": "str"})
    assert result.as_numpy("vector").argmax(axis=1).tolist() == [7, 2]


def test_classes(client: Any) -> None:
    outputs = [http.InferRequestedOutput("scores", class_count=2)]
    result = client.infer("colours", [files(GREEN)], outputs=outputs)
    assert result.as_numpy("scores").tolist() == [[b"1.000000:1:green", b"0.000000:0:red"]]


def test_versions(client: Any) -> None:
    for version, answers in (("", "2"), ("1", "1"), ("2", "2")):
        result = client.infer("colours", [files(RED)], model_version=version)
        assert result.get_response()["model_version"] == answers


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client: Any, algorithm: str) -> None:
    result = client.infer(
        "colours", [files(*[RED, BLUE] * 50)],
        request_compression_algorithm=algorithm, response_compression_algorithm=algorithm,
    )  # fmt: skip
    assert result.as_numpy("vector").tolist() == [[250, 10, 10], [10, 10, 250]] * 50


@pytest.mark.parametrize(
    ("model", "given", "status", "sentence"),
    [
        ("nothing", files(RED), "404", "there is no model nothing"),
        ("colours", tensor("image", np.array([[[RED]]], object), "BYTES"), "400", "BYTES[-1, 1]"),
        ("colours", tensor("photo", np.array([[RED]], object), "BYTES"), "400", "has: image"),
        ("colours", files(RED, b"x"), "422", "item 1: not a supported image"),
        ("colours:tensors", tensor("pixels", PIXELS[..., :2], "UINT8"), "400", "UINT8[2, 8, 8, 2]"),
        ("colours:tensors", tensor("pixels", PIXELS.astype("f4"), "FP32"), "400", "UINT8[-1, 8,"),
    ],
)
def test_what_is_wrong_is_said(
    client: Any, model: str, given: Any, status: str, sentence: str
) -> None:
    with pytest.raises(http.InferenceServerException) as refused:
        client.infer(model, [given])
    assert refused.value.status() == status
    assert sentence in refused.value.message()


def test_a_deadline_and_a_priority(client: Any) -> None:
    assert client.infer("colours", [files(RED)], timeout=60_000_000)
    with pytest.raises(http.InferenceServerException) as refused:
        client.infer("colours", [files(png((0, 0, 0), (4000, 4000)))], timeout=1)
    assert refused.value.status() == "504"
    with pytest.raises(http.InferenceServerException, match="priority"):
        client.infer("colours", [files(RED)], priority=1)


def test_many_at_once(client: Any) -> None:
    colours = {"red": RED, "green": GREEN, "blue": BLUE}
    waiting = [
        (name, client.async_infer("colours", [files(picture)]))
        for _ in range(10)
        for name, picture in colours.items()
    ]
    for name, request in waiting:
        assert request.get_result().as_numpy("labels").item().decode() == name


def test_asyncio_s_client(address: str) -> None:
    async def ask() -> list[Any]:
        async with aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            given = aio.InferInput("pixels", list(PIXELS.shape), "UINT8")
            given.set_data_from_numpy(PIXELS)
            asks = [client.infer("colours:tensors", [given]) for _ in range(8)]
            return [result.as_numpy("vector") for result in await asyncio.gather(*asks)]

    for vectors in asyncio.run(ask()):
        np.testing.assert_allclose(vectors, [[250, 10, 10], [10, 10, 250]])


def test_statistics(client: Any) -> None:
    def success() -> int:
        [model] = client.get_inference_statistics("loudness")["model_stats"]
        count: int = model["inference_stats"]["success"]["count"]
        return count

    before = success()
    waves = tensor("wave", np.zeros((3, 1000), "f4"), "FP32")
    client.infer("loudness:tensors", [waves])
    assert success() - before == 3
    versions = client.get_inference_statistics("colours")["model_stats"]
    assert [model["version"] for model in versions] == ["1", "2"]
