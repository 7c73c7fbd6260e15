"""The commands with which a `fit` ends are run here, on a service, for each kind of model."""

import csv
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import png, wav, write_colours, write_words
from tests.servers import plain_environment, served
from training.__main__ import main
from training.next_steps import tell_next

KINDS = {
    "image": "--encoder colours --hidden 8",
    "text": "--encoder words --hidden 8",
    "audio": "--seconds 0.5",
    "multimodal": "--image-encoder colours --text-encoder words --hidden 8",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two encoders in a folder with a space in its name, and data of each kind."""
    folder = tmp_path_factory.mktemp("a project")
    write_colours(folder / "my models")
    write_words(folder / "my models")
    rows = []
    for label, strong, word in (("warm", 0, "red"), ("cold", 2, "blue")):
        for kind in ("image", "audio"):
            (folder / kind / label).mkdir(parents=True)
        for number in range(8):
            colour = [number, 2 * number, number]
            colour[strong] = 200 + number
            picture = folder / "image" / label / f"{number}.png"
            picture.write_bytes(png((colour[0], colour[1], colour[2])))
            wave = np.sin(np.arange(8_000) * (0.1 + strong / 10) * (1 + number / 100))
            (folder / "audio" / label / f"{number}.wav").write_bytes(wav(wave, 16_000))
            rows.append({"image": picture, "text": f"{word} {word}", "label": label})
    for name, columns in (("text", ["text", "label"]), ("multimodal", ["image", "text", "label"])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, columns, extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(folder / "my models") as url:
        yield url


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("what", KINDS)
def test_the_commands_after_a_fit_do_what_they_say(
    folder: Path, url: str, what: str, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder / (what if what in ("image", "audio") else f"{what}.csv")
    places = ("--data", data, "--models", folder / "my models", "--cache", folder / "cache")
    words = f"{KINDS[what]} --epochs 1 --lr 0.02 --threads 1 --name {what}-model".split()
    assert main(["fit", what, *map(str, places), *words]) == 0
    said = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert [line for line in said if line.startswith("#")] == [
        "# open the report",
        "# load the model into a running service; to start one:"
        f" SENSORIUM_MODELS='{folder}/my models' make serve",
        "# query the model",
    ]
    look, load, ask = (line for line in said if not line.startswith("#"))
    shown = run(look)
    assert f"/my%20models/{what}-model/{version}/report.html\n" in shown
    assert run(load.replace("localhost:3000", url)) == "{}"
    answer = json.loads(run(ask.replace("localhost:3000", url)))
    assert (answer["model"], answer["version"]) == (f"{what}-model", str(version))
    [result] = answer["results"]
    assert {label["label"] for label in result["labels"]} == {"warm", "cold"}


def run(command: str) -> str:
    """What a command says in the folder where `fit` ran; the browser only says what it opens."""
    done = subprocess.run(
        command,
        shell=True,
        env={**plain_environment(), "BROWSER": "echo %s"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_in_its_own_folder_a_project_needs_no_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_colours(tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    said = tell_next(Path("models/colours/1"))
    assert "to start one: make serve\n" in said
    assert re.search(r"^curl --data-binary @models/colours/1/example\.png ", said, re.MULTILINE)
