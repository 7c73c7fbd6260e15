"""What the shell exports reaches no test, and no server or command that a test starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.compare.ceiling import run_in_process
from loadtests.compare.works import WORKS
from service.settings import Settings
from tests.conftest import write_colours
from tests.servers import PROJECT

EXPORTED = {
    "SENSORIUM_WORKERS": "3",
    "SENSORIUM_MODELS": "/nowhere",
    "SENSORIUM_PRECISION": "int8",
    "SENSORIUM_MAX_ITEMS": "1",
    "SENSORIUM_API_KEY": "secret",
    "SENSORIUM_LOAD_PEAK": "1",
    "SENSORIUM_NO_SETTING": "1",
    "BENTOML_PORT": "1",
    "BENTOML_CONFIG": "/nowhere",
    "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
    "OPENAI_BASE_URL": "http://nowhere",
    "LOCUST_USERS": "1",
    "COMPARE_THREADS": "7",
    "MAKEFLAGS": "-- PORT=4000",
    "PORT": "4000",
    "MODEL": "another",
}
# What tests/__init__.py leaves, as a child of a test sees it.
SEEN = """
import json, os, subprocess, sys
import tests.conftest
from service.settings import Settings
child = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
seen = json.loads(subprocess.run(child, capture_output=True, check=True).stdout)
print(json.dumps([sorted(seen), Settings().model_dump(mode="json"), os.umask(0)]))
"""


def test_tests_do_not_see_what_the_shell_exports() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEEN],
        cwd=PROJECT,
        env={**os.environ, **EXPORTED},
        umask=0o077,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names, settings, umask = json.loads(done.stdout)
    assert not set(EXPORTED) & set(names)
    assert settings == Settings().model_dump(mode="json")
    assert umask == 0o022


def test_the_ceiling_is_measured_without_the_shell_s_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = write_colours(tmp_path, name=WORKS["photos"].model) / "example.png"
    monkeypatch.setenv("SENSORIUM_MAX_PIXELS", "1")
    found, _ = run_in_process(WORKS["photos"], [example], tmp_path, loops=1, batch=1, seconds=0.1)
    assert found.answers > 0
