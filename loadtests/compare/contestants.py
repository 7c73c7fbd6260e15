"""Contestants: Sensorium and the others; how each is installed, started and asked."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtests.compare.dialects import (
    BASE64,
    FORM,
    OPEN_INFERENCE,
    PLAIN,
    SENSORIUM,
    Dialect,
)
from loadtests.compare.processes import free_ports, plain_environment
from loadtests.compare.works import MODELS

PACKAGE = "loadtests.compare.servers"
CORES = len(os.sched_getaffinity(0))
INT8 = "-int8"
DEADLINE_MS = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server runs."""

    python: Path
    port: int
    folder: Path  # empty, its own, and removed afterwards; a short path, for Ray's sockets


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server that can be started and asked."""

    name: str
    dialect: Dialect
    command: Callable[[Place], list[str]]
    environment: str | None  # a file of `requirements/`; None: the project's own
    env: Mapping[str, str] = field(default_factory=dict)
    precision_setting: str = "COMPARE_PRECISION"
    deadline: Mapping[str, str] = field(default_factory=dict)  # headers that tell of one

    @property
    def precision(self) -> str:
        return self.env.get(self.precision_setting, "fp32")


def _sensorium(place: Place) -> list[str]:
    return _bentoml(place, "service.app:Sensorium")


def _bentoml(place: Place, service: str = f"{PACKAGE}.bentoml:Peer") -> list[str]:
    address = ["--host", "127.0.0.1", "--port", str(place.port)]
    return [str(place.python), "-m", "bentoml", "serve", service, *address]


def _fastapi(place: Place, workers: int = 1) -> list[str]:
    options = ["--port", str(place.port), "--no-access-log", "--workers", str(workers)]
    return [str(place.python), "-m", "uvicorn", f"{PACKAGE}.fastapi:app", *options]


def _litserve(place: Place) -> list[str]:
    return [str(place.python), "-m", f"{PACKAGE}.litserve", "--port", str(place.port)]


def _mlserver(place: Place) -> list[str]:
    grpc, metrics = free_ports(2)
    ports = {"http_port": place.port, "grpc_port": grpc, "metrics_port": metrics}
    metrics_dir = str(place.folder / "metrics")  # else in the folder that it is started from
    settings = {"host": "127.0.0.1", "debug": False, "metrics_dir": metrics_dir, **ports}
    (place.folder / "settings.json").write_text(json.dumps(settings))
    for kind in MODELS:
        model = {
            "name": kind,
            "implementation": f"{PACKAGE}.mlserver.Peer",
            "max_batch_size": 16,
            "max_batch_time": 0.01,
        }
        (place.folder / kind).mkdir()
        (place.folder / kind / "model-settings.json").write_text(json.dumps(model))
    return [str(place.python.with_name("mlserver")), "start", str(place.folder)]


def _ray(place: Place) -> list[str]:
    options = ["--port", str(place.port), "--folder", str(place.folder)]
    return [str(place.python), "-m", f"{PACKAGE}.ray", *options]


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(
            "sensorium",
            SENSORIUM,
            _sensorium,
            environment=None,
            precision_setting="SENSORIUM_PRECISION",
            deadline={"X-Timeout-Ms": str(DEADLINE_MS)},
        ),
        Contestant("fastapi", PLAIN, _fastapi, "fastapi"),
        Contestant(
            "fastapi-workers",  # a process for each core, as its chapter on deployment has it
            PLAIN,
            lambda place: _fastapi(place, CORES),
            "fastapi",
            env={"COMPARE_THREADS": "1"},
        ),
        Contestant("bentoml", FORM, _bentoml, "bentoml"),
        Contestant("litserve", BASE64, _litserve, "litserve"),
        Contestant("mlserver", OPEN_INFERENCE, _mlserver, "mlserver"),
        Contestant("ray", PLAIN, _ray, "ray", env={"RAY_USAGE_STATS_ENABLED": "0"}),
    )
}
DEFAULT = ["sensorium", "sensorium-int8", *(name for name in CONTESTANTS if name != "sensorium")]


def contestant(name: str) -> Contestant:
    """One by its name; any may run our int8 graphs, as NAME-int8.

    Raises:
        KeyError: there is none of that name.
    """
    found = CONTESTANTS[name.removesuffix(INT8)]
    if not name.endswith(INT8):
        return found
    return replace(found, name=name, env={**found.env, found.precision_setting: "int8"})


def python_of(environment: str | None, environments: Path) -> Path:
    """The interpreter that runs a contestant."""
    if environment is None:
        return Path(sys.executable)
    return environments / environment / "bin/python"


def variables(contestant: Contestant, place: Place, root: Path) -> dict[str, str]:
    """The environment variables of its process: this one's, without what would change a server."""
    home = {"BENTOML_HOME": str(place.folder), "BENTOML_DO_NOT_TRACK": "True"}
    return {**plain_environment(), **home, "PYTHONPATH": str(root), **contestant.env}
