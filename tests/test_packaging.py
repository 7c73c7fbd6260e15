"""The bento and the image: what they hold, and that they serve without the checkout."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import png, tone
from tests.dockerfile import Build, read_ignored, read_steps
from tests.servers import PROJECT, plain_environment, running

BENTOML = [sys.executable, "-m", "bentoml"]


def read_pins(path: Path) -> set[Requirement]:
    return {Requirement(line) for line in path.read_text().splitlines()}


def names(requirements: set[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def closure(wanted: set[Requirement]) -> set[str]:
    """The names of all that these requirements need here, by what the installed packages say."""
    found: set[str] = set()
    waiting = {(canonicalize_name(r.name), extra) for r in wanted for extra in {"", *r.extras}}
    seen: set[tuple[str, str]] = set()
    while waiting:
        name, extra = waiting.pop()
        seen.add((name, extra))
        found.add(name)
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                own = canonicalize_name(requirement.name)
                waiting |= {(own, more) for more in {"", *requirement.extras}} - seen
    return found


def test_a_bento_requires_what_the_lock_pins_for_serving_and_nothing_else() -> None:
    pins = read_pins(PROJECT / "requirements-serve.lock")
    assert pins <= read_pins(PROJECT / "requirements.lock")
    groups = tomllib.loads((PROJECT / "pyproject.toml").read_text())["dependency-groups"]
    here = {pin for pin in pins if pin.marker is None or pin.marker.evaluate()}
    assert names(here) == closure(set(map(Requirement, groups["serve"])))
    assert not {"torch", "pytest", "locust"} & names(pins)


@pytest.fixture
def checkout(tmp_path: Path, small_models: Path) -> Path:
    """A checkout with small models, and with what does not belong into a bento."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("bentofile.yaml", "requirements-serve.lock", "pyproject.toml", "README.md"):
        shutil.copy(PROJECT / name, checkout)
    for folder in ("service", "training", "tests"):
        shutil.copytree(PROJECT / folder, checkout / folder)
    small_models.rename(checkout / "models")
    half_written = checkout / "models/.colours.1.partial-x/colours/1"
    half_written.mkdir(parents=True)
    (half_written / "model.onnx").write_text("half")
    return checkout


def test_a_bento_is_built_offline_and_serves_from_anywhere(checkout: Path, tmp_path: Path) -> None:
    home = tmp_path / "bentoml"
    # An index that nobody serves: pip and uv fail when they look for anything.
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9", "UV_INDEX_URL": "http://127.0.0.1:9"}
    environment = {**plain_environment(), "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    build = subprocess.run(
        [*BENTOML, "build"],
        cwd=checkout,
        env={**environment, **nowhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert build.returncode == 0, build.stderr
    [source] = home.glob("bentos/sensorium/*/src")
    files = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert {path.parts[0] for path in files} == {"service", "models", "bentofile.yaml"}
    models = {path.parts[1] for path in files if path.parts[0] == "models"}
    assert models == {"colours", "loudness", "words"}

    shutil.rmtree(checkout)
    command = [*BENTOML, "serve", "sensorium:latest"]
    with (
        running(command, cwd=tmp_path, env=environment) as url,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        image = client.post("/v1/image/classify", content=png((9, 250, 9)))
        text = client.post("/v1/text/embed", content=b"red cat")
        audio = client.post("/v1/audio/classify", content=tone(0.8))
    assert image.json()["results"][0]["labels"][0]["label"] == "green"
    assert sum(text.json()["results"][0]["vector"]) == pytest.approx(1)
    assert audio.json()["results"][0]["labels"][0]["label"] == "loud"


def test_the_image_runs_as_a_numbered_user_who_is_not_root_and_names_no_container() -> None:
    steps = read_steps(PROJECT / "Dockerfile")
    last = steps[max(i for i, step in enumerate(steps) if step.instruction == "FROM") :]
    [user] = [step.words for step in last if step.instruction == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert not any("BENTOML_CONTAINERIZED" in step.words for step in steps)


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("service/api/v1/predict.py", False),
        ("models/spoken-digits/1/model.onnx", False),
        ("models/efficientnet-lite0/1/model.onnx", True),  # imported in the image itself
        ("models/.mine.1.partial-x/mine/1/model.onnx", True),
        ("service/__pycache__/app.cpython-311.pyc", True),
        (".venv/bin/python", True),
        ("tests/conftest.py", True),
        ("README.md", True),
    ],
)
def test_only_what_the_image_needs_is_sent_to_its_build(path: str, ignored: bool) -> None:
    assert read_ignored(PROJECT)(PurePosixPath(path)) == ignored


@pytest.fixture
def image() -> Iterator[Build]:
    """The Dockerfile's steps, done; in the end they are removed, for they are large."""
    with TemporaryDirectory(prefix="sensorium-image-") as folder:
        Path(folder).chmod(0o755)  # for the user of the image
        build = Build(PROJECT, Path(folder))
        build.run()
        yield build


def test_the_dockerfile_ends_in_a_service_that_answers_without_torch(image: Build) -> None:
    stage, app = image.stage, image.path("/app")
    assert {path.name for path in app.iterdir()} == {".venv", "models", "service"}
    torch = image.ask("python", "-c", "import torch")
    assert torch.returncode == 1
    assert "No module named 'torch'" in torch.stderr
    if stage.user is not None:
        assert image.ask("touch", "models/mine").returncode == 1  # it may read, not write

    with running(stage.command, cwd=stage.workdir, env=image.environment, user=stage.user) as url:
        port = url.rpartition(":")[2]
        assert image.ask(*stage.healthcheck, BENTOML_PORT=port).returncode == 0
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            states = {m["name"]: m["state"] for m in client.get("/readyz").json()["models"]}
            answers = {
                path: client.post(path, content=(app / "models" / file).read_bytes())
                for path, file in EXAMPLES.items()
            }
    assert set(states.values()) == {"ready"}
    for answer in answers.values():
        assert answer.status_code == 200, answer.text
        assert answer.json()["results"][0]["status"] == "ok", answer.text
    assert image.ask(*stage.healthcheck, BENTOML_PORT=port).returncode == 1


EXAMPLES = {
    "/v1/image/classify": "efficientnet-lite0/1/example.jpg",
    "/v1/text/embed": "all-minilm-l6-v2/1/example.txt",
    "/v1/audio/classify": "spoken-digits/1/example.wav",
}
