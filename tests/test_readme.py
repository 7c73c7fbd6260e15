"""The README's commands, and the folder written by hand in docs/models.md, as they stand there."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx.parser
import pytest

from service.model.model import load
from service.settings import Settings
from tests.conftest import png
from tests.servers import served

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BY_HAND = (ROOT / "docs/models.md").read_text().split("\n## Write a folder by hand\n")[1]


def blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


BLOCKS = blocks(README)
CURLS = [
    (command, answer)
    for (kind, command), (_, answer) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True)
    if kind == "sh" and command.startswith("curl")
]
MAKES = re.findall(r"^make (\w+)", "".join(text for kind, text in BLOCKS if kind == "sh"), re.M)


def only(kind: str) -> str:
    [block] = [text for found, text in blocks(BY_HAND) if found == kind]
    return block


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if not all(
        (ROOT / "models" / name).is_dir() for name in ("efficientnet-lite0", "all-minilm-l6-v2")
    ):
        pytest.skip("the encoders are not built; make models does that")
    with served(ROOT / "models") as url:
        yield url


def rounded(value: Any) -> Any:
    """Without what differs from one processor to the next."""
    if isinstance(value, float):
        return round(value, 1)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("command", "answer"), CURLS)
def test_every_curl_is_answered_as_it_says(url: str, command: str, answer: str) -> None:
    here = command.replace("localhost:3000", url.removeprefix("http://"))
    found = subprocess.run(here, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert rounded(json.loads(found.stdout)) == rounded(json.loads(answer))


def test_there_is_a_curl_for_each_modality() -> None:
    assert {part for command, _ in CURLS for part in re.findall(r"/v1/(\w+)/", command)} == {
        "image", "text", "audio",
    }  # fmt: skip


@pytest.mark.parametrize("goal", [*MAKES, "models", "install", "load"])
def test_every_goal_of_make_exists(goal: str) -> None:
    planned = subprocess.run(
        ["make", "--dry-run", goal], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert planned.returncode == 0, planned.stderr


def test_every_file_that_is_linked_exists() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


FOREIGN = """
<ir_version: 9, opset_import: ["" : 18]>
foreign (float[N,3,224,224] input) => (float[N,3] output) <int64[2] sides = {2, 3}> {
    output = ReduceMean<keepdims = 0>(input, sides)
}
"""


def test_the_worked_manifest_makes_a_foreign_graph_a_model(tmp_path: Path) -> None:
    """Its graph says which of a picture's three colours is strongest."""
    folder = tmp_path / "models/my-classifier/1"
    folder.mkdir(parents=True)
    graph = onnx.parser.parse_model(FOREIGN).SerializeToString()
    (folder / "model.onnx").write_bytes(graph)
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    (folder / "card.md").write_text("# Leaves\n")
    (folder / "example.jpg").write_bytes(png((20, 200, 20)))
    digest = hashlib.sha256(graph).hexdigest()
    (folder / "manifest.yaml").write_text(only("yaml").replace("SHA256", digest))
    (tmp_path / "service").symlink_to(ROOT / "service")
    subprocess.run([sys.executable, "-c", only("python")], cwd=tmp_path, check=True)
    model = load(folder, Settings())
    [answer] = model.answers([model.decode(png((20, 20, 200)))])
    assert model.labels[answer["classify"].argmax()] == "blue"


def test_the_table_of_settings_is_true() -> None:
    fields = Settings.model_fields
    rows = re.findall(r"^\| `SENSORIUM_(\w+)` \| ([^|]+) \|", README, re.MULTILINE)
    assert len(rows) > 3
    for name, default in rows:
        value = fields[name.lower()].default
        shown = default.strip().strip("`")
        assert shown in (str(value), f"{value // 2**20 if isinstance(value, int) else 0} MiB")
