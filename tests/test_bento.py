"""What the service replaces inside BentoML and uvicorn, and what it does without that."""

import hashlib
import inspect
import os
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path

import httpx
import psutil
import pytest

from service.bento import CHECKED, unchecked
from tests.conftest import png
from tests.servers import PROJECT, plain_environment, running

CHECK_AGAIN = (
    "{} {} has other code here than the versions that were checked. Read what service/bento.py and"
    " service/api/connections.py replace or call of it, run their tests, then correct CHECKED,"
    " pyproject.toml and this test"
)
# What is replaced or called, and the beginning of the SHA-256 of its source.
SOURCES = {
    "bentoml": {
        "_bentoml_impl.worker.service:main.callback": "19466ba1f7ca",  # builds uvicorn's server
        "_bentoml_impl.server.serving:serve_http": "e1ed162e4569",  # builds the arbiter
        "_bentoml_sdk.service.factory:Service.to_asgi": "bc4a615ea625",
        "_bentoml_sdk.service.factory:Service.inject_config": "85b281c4a0b2",
        "bentoml._internal.utils.circus": "6a27d176c552",
    },
    "kantoku": {
        "circus.arbiter:Arbiter.__init__": "cb10d2fc3c72",
        "circus.watcher:Watcher.kill_process": "e5634435fe62",  # waits for graceful_timeout
    },
    "uvicorn": {
        "uvicorn.config:Config.__init__": "98e927ea97a7",
        "uvicorn.protocols.http.flow_control": "d39d16560df5",
        "uvicorn.protocols.http.httptools_impl": "1d4e1c579df4",
        "uvicorn.server:Server": "06e799f7c58f",
    },
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what BentoML imports
@pytest.mark.parametrize(
    ("package", "place"), [(package, place) for package in SOURCES for place in SOURCES[package]]
)
def test_what_is_replaced_is_as_it_was_checked(package: str, place: str) -> None:
    module, _, name = place.partition(":")
    found = import_module(module)
    source = inspect.getsource(attrgetter(name)(found) if name else found)
    digest = hashlib.sha256(source.encode()).hexdigest()
    assert digest[:12] == SOURCES[package][place], CHECK_AGAIN.format(package, version(package))


def test_the_installed_versions_were_checked() -> None:
    assert unchecked() == []


def test_an_absent_package_or_another_version_was_not_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CHECKED, "bentoml", "<1.4")
    monkeypatch.setitem(CHECKED, "no-such-package", ">=1")
    assert unchecked() == ["bentoml<1.4", "no-such-package>=1"]


def test_only_checked_versions_are_installed() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    serve = project["dependency-groups"]["serve"]
    assert {name + versions for name, versions in CHECKED.items()} <= set(serve)


def test_with_other_versions_every_route_is_still_ours(tmp_path: Path, small_models: Path) -> None:
    log = tmp_path / "log.txt"
    command = f"{sys.executable} -m bentoml serve tests.unchecked:Sensorium >{log} 2>&1"
    settings = {"SENSORIUM_MODELS": str(small_models), "SENSORIUM_WORKERS": "1"}
    with (
        running(
            ["sh", "-c", f"exec {command}"],
            cwd=PROJECT,
            env={**plain_environment(), **settings},
        ) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        ready = client.get("/readyz")
        assert ready.json()["models"], "BentoML's own answer has no body"
        assert client.get("/metrics").text.count("sensorium_build_info{") == 1
        assert client.get("/").json()["name"] == "sensorium"
        answer = client.post("/v1/image/classify", content=png((250, 10, 10)))
        assert answer.json()["results"][0]["labels"]
        assert client.get("/nowhere").json()["code"] == "not_found"
        [parent] = [each for each in psutil.Process(os.getpid()).children() if is_server(each)]
        control = [each for each in parent.net_connections("tcp") if each.status == "LISTEN"]
        assert len(control) > 1, "BentoML's own arbiter listens on ports"
    said = log.read_text()
    assert said.count("BentoML runs unmodified, because this is not installed: bentoml<1.") == 1


def is_server(process: psutil.Process) -> bool:
    return "tests.unchecked:Sensorium" in process.cmdline()
