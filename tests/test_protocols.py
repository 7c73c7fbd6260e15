"""docs/protocols.md: its examples, run as they stand there."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.servers import served

ROOT = Path(__file__).parents[1]
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(\w+)\n(.*?)^```", (ROOT / "docs/protocols.md").read_text(), re.MULTILINE | re.DOTALL
)
EXAMPLES = [
    (kind, code, shown) for (kind, code), (_, shown) in pairwise(BLOCKS) if kind in ("python", "sh")
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    for name in ("efficientnet-lite0", "all-minilm-l6-v2"):
        if not (ROOT / "models" / name).is_dir():
            pytest.skip(f"{name} is not built; make models does that")
    with served(ROOT / "models") as url:
        yield url.removeprefix("http://")


@pytest.mark.parametrize(("kind", "code", "shown"), EXAMPLES)
def test_every_example_answers_as_it_says(address: str, kind: str, code: str, shown: str) -> None:
    here = code.replace("localhost:3000", address)
    command = [sys.executable, "-c", here] if kind == "python" else ["sh", "-c", here]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if kind == "sh":
        assert json.loads(found) == json.loads(shown)
    else:
        assert found == shown


def test_there_is_an_example_of_each_client() -> None:
    code = "".join(code for _, code, _ in EXAMPLES)
    for client in ("tritonclient.http", "openai", "langchain_openai", "curl"):
        assert client in code
