"""The tutorial in docs/training.md, followed to the letter: pictures and texts become models."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.servers import PROJECT, plain_environment, running

SECTION = (PROJECT / "docs/training.md").read_text().split("\n## ")[1]
LAYOUT, *BLOCKS = re.findall(r"^```\w*\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
FITS = re.findall(r"^.venv/bin/python -m training fit .*", SECTION, re.MULTILINE)
CURLS: list[str] = re.findall(r"^curl .*", SECTION, re.MULTILINE)

ENCODERS = ("efficientnet-lite0", "all-minilm-l6-v2")
PAINTS = {"daisy": ("white", "gold"), "poppy": ("red", "black")}  # petals and heart
PICTURES = 20  # of a class: with 20, five features never change, and the head trips over them
PHOTOGRAPH = PROJECT / "models/efficientnet-lite0/1/example.jpg"
SIDE = 256  # pixels
QUESTIONS = {
    "card": (
        "My card has not arrived yet.", "When will the new card be sent to me?",
        "I am still waiting for my bank card.", "How do I track the delivery of my card?",
        "The card that I ordered is lost in the post.", "I lost my card in a taxi.",
    ),
    "exchange": (
        "What is the exchange rate for euros?", "How many dollars do I get for a pound?",
        "Can I change yen into francs?", "Is your rate the one between banks?",
        "Which currencies can I hold?", "The conversion to crowns was dear.",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer has: the project, installed, its encoders, and pictures and texts."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "service", "training"):
        (checkout / name).symlink_to(PROJECT / name)
    (checkout / "models").mkdir()
    for name in ENCODERS:
        if not (PROJECT / "models" / name / "1/manifest.yaml").is_file():
            pytest.skip(f"{name} is not built; make models does that")
        (checkout / "models" / name).symlink_to(PROJECT / "models" / name)
    (checkout / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (checkout / ".venv" / name).symlink_to(Path(sys.prefix, name))
    run("make --touch install models", checkout)  # stamps only: it is all there
    data, *labels = re.findall(r"(\w+)/", LAYOUT)
    for label in labels:
        folder = checkout / data / label
        folder.mkdir(parents=True)
        for number in range(PICTURES):
            (folder / f"{number}.jpg").write_bytes(flower(label, number))
    with (checkout / "questions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label"))
        table.writerows((text, label) for label, texts in QUESTIONS.items() for text in texts)
    return checkout


@pytest.fixture(scope="module")
def url(checkout: Path) -> Iterator[str]:
    """Both models, fitted and then served by the tutorial's commands; only the port is another."""
    for fit in FITS:
        run(fit, checkout)
    serve = ["sh", "-c", "PORT=$BENTOML_PORT exec make serve"]
    with running(serve, cwd=checkout, env=plain_environment()) as url:
        yield url


def test_every_command_of_the_tutorial_is_run_here() -> None:
    served = [f"{fit}\nmake serve\n" for fit in FITS]  # two commands for each model
    asked = [f"{curl_of(model)}\n" for model in ("flowers", "questions")]
    assert [served[0], asked[0], served[1], asked[1]] == BLOCKS


@pytest.mark.parametrize("label", PAINTS)
def test_a_new_picture_is_named(checkout: Path, url: str, label: str) -> None:
    (checkout / "some.jpg").write_bytes(flower(label, PICTURES))
    assert ask("flowers", checkout, url) == ("flowers", label)


def test_a_new_question_is_understood(checkout: Path, url: str) -> None:
    assert ask("questions", checkout, url) == ("questions", "card")


def test_the_service_listens_where_the_tutorial_asks(checkout: Path) -> None:
    [port] = re.findall(r"--port (\d+)", run("env -u PORT make --dry-run serve", checkout))
    assert all(f"localhost:{port}/" in curl for curl in CURLS)


def run(command: str, folder: Path) -> str:
    """What a command says, as if typed in that folder; its complaints stay in pytest's capture."""
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=plain_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def curl_of(model: str) -> str:
    [curl] = [curl for curl in CURLS if f"?model={model}" in curl]
    return curl


def ask(model: str, checkout: Path, url: str) -> tuple[str, str]:
    """The model that answered the tutorial's question, and what it says of the only item."""
    here = curl_of(model).replace("localhost:3000", url.removeprefix("http://"))
    answer = json.loads(run(here, checkout))
    [result] = answer["results"]
    return str(answer["model"]), str(result["labels"][0]["label"])


def flower(label: str, number: int) -> bytes:
    """A JPEG of a flower in front of part of a photograph; no two numbers give the same."""
    petals, heart = PAINTS[label]
    random = np.random.default_rng(number)
    with Image.open(PHOTOGRAPH) as photograph:
        left, top = random.integers(0, np.subtract(photograph.size, SIDE))
        picture = photograph.crop((left, top, left + SIDE, top + SIDE))
    draw = ImageDraw.Draw(picture)
    x, y = random.uniform(0.3 * SIDE, 0.7 * SIDE, 2)
    size = random.uniform(0.1 * SIDE, 0.2 * SIDE)
    for turn in np.arange(8) * np.pi / 4:
        draw.circle((x + size * np.cos(turn), y + size * np.sin(turn)), 0.6 * size, petals)
    draw.circle((x, y), 0.6 * size, heart)
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()
