"""Models come, go and change versions while the service answers."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest
import tritonclient.http as triton
import yaml
from prometheus_client.parser import text_string_to_metric_families

from loadtests.changes import Target, change_under_load
from service.control.routing import draw
from tests.conftest import COLOURS, png, write_colours, write_warmth
from tests.servers import served

RED = png((250, 10, 10))
# Another model of the same name: it takes green for red.
SWAPPED = COLOURS.replace("> {", ", int64[3] order = {1, 0, 2}> {").replace(
    "logits = Mul(vector", "swapped = Gather<axis = 1>(vector, order) logits = Mul(swapped"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_colours(folder)
    return folder


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    with served(models, workers=2) as url:
        wait_for(lambda: sample(url, "sensorium_models", {"state": "ready"}) == 2)
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def name(models: Path, url: str, request: pytest.FixtureRequest) -> str:
    """A model of the test's own, whose version 1 serves."""
    name = f"{request.node.originalname[5:35]}-{abs(hash(request.node.name)) % 10_000}".replace(
        "_", "-"
    )
    write_colours(models, name)
    assert change(url, f"{name}/load").status_code == 200
    return name


def change(url: str, path: str, **body: Any) -> httpx.Response:
    address = f"{url}/v2/repository/models/{path}"
    return httpx.post(address, json=body, timeout=60, trust_env=False)


def route(url: str, name: str, **routing: Any) -> httpx.Response:
    address = f"{url}/v2/repository/models/{name}/routing"
    return httpx.put(address, json=routing, timeout=60, trust_env=False)


def ask(url: str, name: str, version: str | None = None, request_id: str = "") -> httpx.Response:
    """One red picture's label, on a connection of its own: any worker may answer."""
    query = {"model": name} | ({"version": version} if version else {})
    address, headers = f"{url}/v1/image/classify", {"X-Request-Id": request_id}
    return httpx.post(address, params=query, content=RED, headers=headers, trust_env=False)


def answers(url: str, name: str, version: str | None = None) -> set[tuple[str, str]]:
    """(version, label) of many answers: both workers are among those who gave them."""
    found = set()
    for _ in range(20):
        document = ask(url, name, version).raise_for_status().json()
        found.add((document["version"], document["results"][0]["labels"][0]["label"]))
    return found


def index(url: str, name: str) -> dict[str, tuple[str, str]]:
    """Version -> state and reason."""
    rows = httpx.post(f"{url}/v2/repository/index", trust_env=False).raise_for_status().json()
    return {row["version"]: (row["state"], row["reason"]) for row in rows if row["name"] == name}


def sample(url: str, series: str, labels: dict[str, str]) -> float:
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == series and labels.items() <= sample.labels.items()
    )


def test_triton_s_client_unloads_and_loads(client: Any, name: str) -> None:
    client.unload_model(name)
    assert not client.is_model_ready(name)
    [row] = [row for row in client.get_model_repository_index() if row["name"] == name]
    assert row == {"name": name, "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    client.load_model(name)
    assert client.is_model_ready(name)
    [row] = [row for row in client.get_model_repository_index() if row["name"] == name]
    assert row == {"name": name, "version": "1", "state": "READY", "reason": ""}


def test_what_cannot_be_managed_is_said(client: Any, url: str, name: str) -> None:
    with pytest.raises(triton.InferenceServerException, match="no folder nothing"):
        client.load_model("nothing")
    with pytest.raises(triton.InferenceServerException, match="no model nothing"):
        client.unload_model("nothing")
    with pytest.raises(triton.InferenceServerException, match="config"):
        client.load_model(name, config="{}")
    assert change(url, f"{name}/load?version=7").status_code == 404
    assert change(url, "..%2f../load").status_code in (400, 404)


def test_null_is_absent_and_an_unknown_name_is_told_the_nearest(url: str, name: str) -> None:
    accepted: tuple[tuple[str, dict[str, Any]], ...] = (
        ("load", {"parameters": None}),
        ("unload", {"parameters": None}),
        ("unload", {"parameters": {"unload_dependents": None}}),
        ("load", {"anything": None}),
    )
    for path, body in accepted:
        assert change(url, f"{name}/{path}", **body).status_code == 200
    assert route(url, name, aliases={"best": "1"}, weights=None, shadow=None).status_code == 200
    refused: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("load", {"parameter": {}}, "did you mean parameters?"),
        ("load", {"parameters": {"config": "{}"}}, "parameter config is unknown"),
        ("unload", {"parameters": {"unload_dependants": True}}, "mean unload_dependents?"),
        ("load?versoin=1", {}, "did you mean version?"),
    )
    for path, body, sentence in refused:
        response = change(url, f"{name}/{path}", **body)
        assert (response.status_code, sentence in response.json()["error"]) == (400, True)
    response = route(url, name, alias={})
    assert "did you mean aliases?" in response.json()["error"]


def test_every_worker_has_made_a_change_when_it_is_answered(
    url: str, models: Path, name: str
) -> None:
    write_colours(models, name, version=2, graph=SWAPPED)
    assert answers(url, name) == {("1", "red")}  # nobody asked to load it
    assert change(url, f"{name}/load").status_code == 200
    assert answers(url, name) == {("2", "green")}
    assert answers(url, name, "1") == {("1", "red")}
    assert change(url, f"{name}/unload?version=2").status_code == 200
    assert answers(url, name) == {("1", "red")}
    assert {ask(url, name, "2").status_code for _ in range(20)} == {503}
    assert index(url, name) == {"1": ("READY", ""), "2": ("UNAVAILABLE", "unloaded")}


def wrong_hash(folder: Path) -> str:
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    manifest["graphs"][0]["sha256"] = "0" * 64
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return "model.onnx is not the file that the manifest describes"


def failing_example(folder: Path) -> str:
    (folder / "example.json").write_text('{"classify": [0, 1, 0], "embed": [0, 0, 0]}')
    return "differs by"


def half_a_graph(folder: Path) -> str:
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:100])
    return "model.onnx is not the file that the manifest describes"


@pytest.mark.parametrize("spoil", [wrong_hash, failing_example, half_a_graph])
@pytest.mark.parametrize("version", ["1", "2"])
def test_what_is_refused_says_why_and_the_version_before_serves(
    client: Any, url: str, models: Path, name: str, spoil: Any, version: str
) -> None:
    """A new version, or another folder in the place of the one that serves."""
    if version == "1":
        shutil.rmtree(models / name / "1")
    folder = write_colours(models, name, version=int(version), graph=SWAPPED)
    reason = spoil(folder)
    with pytest.raises(triton.InferenceServerException, match=reason) as refused:
        client.load_model(name)
    assert refused.value.status() == "422"
    assert answers(url, name) == {("1", "red")}
    state, said = index(url, name)[version]
    assert (state, reason in said) == ("READY" if version == "1" else "UNAVAILABLE", True)
    labels = {"model": name, "version": version}
    assert sample(url, "sensorium_model_failed", labels) == 2


def test_a_folder_that_is_replaced_serves_when_it_is_loaded(
    url: str, models: Path, name: str
) -> None:
    shutil.rmtree(models / name / "1")
    write_colours(models, name, graph=SWAPPED)
    assert answers(url, name) == {("1", "red")}
    assert change(url, f"{name}/load").status_code == 200
    assert answers(url, name) == {("1", "green")}


def test_an_alias_moves_with_one_call(url: str, models: Path, name: str) -> None:
    write_colours(models, name, version=2, graph=SWAPPED)
    change(url, f"{name}/load")
    for version, label in (("1", "red"), ("2", "green")):
        assert route(url, name, aliases={"stable": version}).status_code == 200
        assert answers(url, name, "stable") == {(version, label)}
    assert answers(url, name, "latest") == {("2", "green")}
    assert ask(url, name, "candidate").status_code == 404
    assert route(url, name, aliases={"stable": "3"}).status_code == 404
    assert route(url, name, aliases={"latest": "1"}).status_code == 400


def versions_by_id(url: str, name: str, request_ids: Iterable[str]) -> dict[str, str]:
    """The version that answers each request of that `id` under /v2."""
    given = triton.InferInput("image", [1, 1], "BYTES")
    given.set_data_from_numpy(np.array([[RED]], object))
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        answers = [
            client.infer(name, [given], request_id=key).get_response() for key in request_ids
        ]
    return {answer["id"]: answer["model_version"] for answer in answers}


def test_a_canary_gets_its_share_and_an_id_its_version(url: str, models: Path, name: str) -> None:
    write_colours(models, name, version=2, graph=SWAPPED)
    change(url, f"{name}/load")
    aliases = {"stable": "1", "candidate": "2"}
    weights = {"stable": 90, "candidate": 10}
    assert route(url, name, aliases=aliases, weights=weights).status_code == 200
    expected = {f"id-{n}": aliases[draw(weights, f"id-{n}")] for n in range(30)}
    assert set(expected.values()) == {"1", "2"}
    for _ in range(2):
        given = {key: ask(url, name, request_id=key).json()["version"] for key in expected}
        assert given == expected
        assert versions_by_id(url, name, expected) == expected
    change(url, f"{name}/unload?version=2")
    assert {ask(url, name, request_id=key).json()["version"] for key in expected} == {"1"}


def test_a_shadow_is_compared_and_never_answers(url: str, models: Path, name: str) -> None:
    write_colours(models, name, version=2, graph=SWAPPED)
    change(url, f"{name}/load")
    for shadow, outcome in (("1", "differ"), ("3", "agree")):
        if shadow == "3":
            write_colours(models, name, version=3, graph=SWAPPED)
            change(url, f"{name}/load?version=3")
        trial = {"version": shadow, "share": 1.0}
        assert route(url, name, weights={"2": 1}, shadow=trial).status_code == 200
        assert answers(url, name) == {("2", "green")}
        labels = {"model": name, "version": shadow}
        wait_for(partial(has_copies, url, {**labels, "outcome": outcome}))


def has_copies(url: str, labels: dict[str, str]) -> bool:
    return sample(url, "sensorium_shadow_items_total", labels) == 20


def test_draws_follow_the_weights() -> None:
    drawn = [draw({"stable": 90, "candidate": 10}, f"{n:08x}") for n in range(10_000)]
    assert 900 < drawn.count("candidate") < 1100


def test_an_encoder_stays_while_a_head_needs_it(url: str, models: Path, name: str) -> None:
    head = f"{name[:40]}-head"
    write_warmth(models, head)  # on `colours`
    assert change(url, f"{head}/load").status_code == 200
    refused = change(url, "colours/unload")
    assert (refused.status_code, head in refused.json()["error"]) == (400, True)
    write_colours(models, "colours", version=2)
    assert change(url, "colours/load").status_code == 200
    assert change(url, "colours/unload?version=1").status_code == 200  # to the other one
    assert {label for _, label in answers(url, head)} == {"warm"}
    taken = change(url, "colours/unload", parameters={"unload_dependents": True})
    assert taken.status_code == 200
    assert index(url, head)["1"] == index(url, "colours")["2"] == ("UNAVAILABLE", "unloaded")


def test_a_watched_folder_is_loaded_when_it_is_whole(tmp_path: Path) -> None:
    models, aside = tmp_path / "models", tmp_path / "aside"
    write_colours(models)
    whole = write_colours(aside, version=2, graph=SWAPPED)
    with served(models, env={"SENSORIUM_MODEL_POLL_SECONDS": "0.1"}) as url:
        shutil.copytree(whole, models / "colours/2", ignore=shutil.ignore_patterns("manifest.yaml"))
        write_colours(models, "others")  # what comes later is loaded first
        wait_for(lambda: index(url, "others") == {"1": ("READY", "")})
        assert index(url, "colours") == {"1": ("READY", "")}
        shutil.copy(whole / "manifest.yaml", models / "colours/2")
        wait_for(lambda: answers(url, "colours") == {("2", "green")})
        shutil.rmtree(models / "colours/2")
        wait_for(lambda: answers(url, "colours") == {("1", "red")})


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_is_wanted_outlives_the_server_where_a_folder_keeps_it(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_colours(models)
    write_colours(models, version=2)
    write_colours(models, "others")
    env = {"SENSORIUM_STATE": str(tmp_path / "state")}
    with served(models, env=env) as url:
        change(url, "colours/unload?version=2")
        route(url, "colours", aliases={"stable": "1"})
    with served(models, env=env) as url:
        assert answers(url, "colours", "stable") == answers(url, "colours") == {("1", "red")}
        assert answers(url, "others") == {("1", "red")}
        assert ask(url, "colours", "2").status_code == 503


def test_nobody_notices_changes_while_all_send_without_pause(tmp_path: Path) -> None:
    """`python -m loadtests.changes`, cut short."""
    models, state = tmp_path / "models", tmp_path / "state"
    write_colours(models)
    write_colours(models, version=2, graph=SWAPPED)
    with served(models, workers=2, env={"SENSORIUM_STATE": str(state)}) as url:
        target = Target(url, "colours", "image", RED)
        findings = change_under_load(target, clients=4, operations=18, pids=workers(state))
    assert findings.wrong == {}
    assert min(findings.answers["1"], findings.answers["2"]) > 0
    assert abs(findings.growth) < 0.05


def workers(state: Path) -> list[int]:
    return [int(socket.stem) for socket in state.glob("*.socket")]


def test_memory_returns_when_a_model_is_unloaded(tmp_path: Path) -> None:
    models, state = tmp_path / "models", tmp_path / "state"
    write_colours(models)
    write_colours(models, "large", graph=with_table(64 * 2**20))
    with served(models, env={"SENSORIUM_STATE": str(state)}) as url:
        [worker] = workers(state)
        loaded = resident_bytes(worker)
        assert change(url, "large/unload").status_code == 200
        assert loaded - resident_bytes(worker) > 60 * 2**20


def with_table(size: int) -> bytes:
    """The same model, with a table of zeros, so many bytes of them, that it looks a row up in."""
    graph = (
        COLOURS.replace(
            "logits =",
            """brightest = ReduceMax<keepdims = 0>(floats, all_sides)
           row = Cast<to = 7>(brightest)
           zeros = Gather<axis = 0>(table, row)
           sum = Add(vector, zeros)
           logits =""",
        )
        .replace("Mul(vector", "Mul(sum")
        .replace("> {", ", int64[3] all_sides = {1, 2, 3}> {")
    )
    model = onnx.parser.parse_model(graph)
    table = np.zeros((size // 12, 3), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    serialised: bytes = model.SerializeToString()
    return serialised


def resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
