"""What is wrong with a `fit` is said before any work; a run that stops at its end is not lost."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import png, wav, write_colours, write_words
from training import fitting
from training.__main__ import main
from training.release import NAMES, A

NO_TEXT = os.fsdecode(b"caf\xe9")  # a name that is not UTF-8
ON_AN_ENCODER = "--encoder colours"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two encoders, and data of each kind, two classes of six items."""
    write_colours(tmp_path / "models")
    write_words(tmp_path / "models")
    for label, strong in (("warm", 0), ("cold", 2)):
        for kind in ("image", "audio"):
            (tmp_path / kind / label).mkdir(parents=True)
        for number in range(8):
            colour = [number, 2 * number, number]
            colour[strong] = 200 + number
            content = png((colour[0], colour[1], colour[2]))
            (tmp_path / "image" / label / f"{number}.png").write_bytes(content)
            wave = np.sin(np.arange(8_000) * (0.1 + strong / 10) * (1 + number / 100))
            (tmp_path / "audio" / label / f"{number}.wav").write_bytes(wav(wave, 16_000))
    rows = [f"{word} {word},{label}" for label, word in (("warm", "red"), ("cold", "blue"))] * 8
    (tmp_path / "text.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "file").touch()
    (tmp_path / "note.txt").write_bytes(b"no image")
    (tmp_path / "models/taken").touch()
    (tmp_path / "models/mine/3").mkdir(parents=True)
    (tmp_path / "few/warm").mkdir(parents=True)
    (tmp_path / "few/cold").mkdir(parents=True)
    for name in ("warm/1.png", "warm/2.png", "cold/1.png"):
        (tmp_path / "few" / name).write_bytes(png((9, 9, 9)))
    (tmp_path / "odd").mkdir()
    for name in (NO_TEXT, "tea"):
        (tmp_path / "odd" / name).mkdir()
        for number in range(2):
            (tmp_path / "odd" / name / f"{number}.png").write_bytes(png((9, 9, 9)))
    return tmp_path


def fit(folder: Path, words: str) -> int | str | None:
    """The exit code of a command whose words are given; HERE stands for the folder."""
    what, *options = words.replace("HERE", str(folder)).split()
    data = "text.csv" if what == "text" else what
    places = {"--data": folder / data, "--models": folder / "models", "--cache": folder / "cache"}
    defaults = {**places, "--name": "mine"}
    given = [str(w) for flag, v in defaults.items() if flag not in options for w in (flag, v)]
    try:
        return main(["fit", what, *given, *options])
    except SystemExit as ended:
        return ended.code


# What is typed, and what is said of it.
WRONG = {
    "image --name MyLeaves": "'MyLeaves' is not a model's name: lower-case letters",
    "image --name my_leaves!": "not a model's name",
    "image --name -leaves": "expected one argument",
    "image --name leaves-": "not a model's name",
    "image --name ../leaves": "not a model's name",
    f"image --name {'a' * 65}": "64 characters at most",
    "text --name Ünïcode": "not a model's name",
    "audio --name a/b": "not a model's name",
    "audio --mode speakers --name A": "not a model's name",
    "image --name taken": "taken is a file; remove it, or choose another name",
    "image --models HERE/file": "--models HERE/file: cannot be written to",
    "image --models HERE/file/models": "cannot be written to: Not a directory",
    "image --cache HERE/file": "--cache HERE/file: cannot be written to",
    "audio --mode speakers --cache HERE/file": "cannot be written to",
    "image --version 3": "3 exists, and a version never changes",
    "image --version 0": "0 must be 1 or more",
    "image --version two": "'two' is not a whole number",
    "image --replace": "--replace needs --version",
    "image --data HERE/nowhere": "there is no HERE/nowhere",
    "image --data HERE/few": "class cold has 1 of the 2 items that are needed",
    "image --mode scratch --data HERE/few": "class cold has 1 of the 2 items",
    "image --mode finetune --data HERE/few": "class cold has 1 of the 2 items",
    "image --data HERE/odd": "is not named in UTF-8; rename it",
    "image --example HERE/nowhere.png": "--example HERE/nowhere.png: there is no such file",
    f"image {ON_AN_ENCODER} --example HERE/note.txt": "--example HERE/note.txt: not a",
    "image --mode scratch --example HERE/note.txt": "--example HERE/note.txt: not a",
    "audio --example HERE/note.txt": "--example HERE/note.txt: not a supported",
    "audio --mode speakers --example HERE/note.txt": "--example HERE/note.txt: not a supported",
    "image --encoder nobody": "there is no model nobody in HERE/models",
    "image --encoder colours nobody": "there is no model nobody in HERE/models",
    "image --encoder colours colours": "colours is named twice",
    "image --epochs 0": "0 must be 1 or more",
    "image --patience 0": "0 must be 1 or more",
    "image --batch 0": "0 must be 1 or more",
    "image --batch 1.5": "'1.5' is not a whole number",
    "image --threads 0": "0 must be 1 or more",
    "image --seed -1": "-1 must be 0 or more",
    "image --hidden 0": "0 must be 1 or more",
    "image --share 0": "0 must be above 0 and below 1",
    "image --share 1": "1 must be above 0 and below 1",
    "image --balance 2": "2 must be from 0 to 1",
    "image --weight-decay -1": "-1 must be 0 or more",
    "image --label-smoothing nan": "nan must be from 0 to 1",
    "image --dropout 1": "1 must be from 0 to 0.99",
    "image --lr 0": "0 must be above 0",
    "image --lr fast": "'fast' is not a number",
    "image --lr inf": "inf must be 0 or more",
    "image --mode scratch --size 0": "0 must be from 1 to 4096",
    "image --mode scratch --filters 8": "expected 4 arguments",
    "image --mode scratch --zoom 2": "2 must be from 0 to 1",
    "audio --seconds 0": "0 must be above 0",
    "audio --seconds 0.02": "the network cannot take inputs of this size; make them larger",
    "audio --bands 20": "--bands 20: a multiple of 8 is needed",
    "audio --low-hz 9000": "--low-hz must be below --high-hz",
    "audio --sample-rate 8000": "at most half of --sample-rate",
    "audio --noise 2": "2 must be from 0 to 1",
    "text --mode finetune --hide 2": "2 must be from 0 to 1",
    "text --mode finetune --encoder-rate 0": "0 must be above 0",
    "multimodal --data HERE/text.csv --absent 1": "1 must be from 0 to 0.99",
}


def test_whatever_is_wrong_is_said_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    monkeypatch.setattr(fitting, "train", lambda *_, **__: trained.append("something"))
    faults = []
    for words, sentence in WRONG.items():
        code = fit(folder, words)
        said = capsys.readouterr().err
        if code not in (1, 2) or sentence.replace("HERE", str(folder)) not in said:
            faults.append(f"{words}: {code}, {said}")
    assert not faults, "\n".join(faults)
    assert trained == []
    assert [path.name for path in (folder / "models/mine").iterdir()] == ["3"]


QUICK = "--encoder colours --hidden 8 --epochs 3 --lr 0.02 --seed 7"


def test_a_run_that_stopped_at_its_end_goes_on_under_another_name(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(fitting, "release", fail)
        assert fit(folder, f"image {QUICK}") == 1
    assert "error: [Errno 28] No space left on device" in capsys.readouterr().err
    [kept] = folder.glob("cache/runs/*/fit.pt")
    before = kept.stat().st_mtime_ns
    with monkeypatch.context() as context:
        context.setattr(fitting, "release", fail)
        words = "--name other --description Else --credit Me --licence MIT --resume"
        assert fit(folder, f"image {QUICK} {words}") == 1
    assert kept.stat().st_mtime_ns == before, "nothing was trained again"
    assert fit(folder, f"image {QUICK} --name other --resume") == 0
    assert (folder / "models/other/1/manifest.yaml").is_file()
    assert not list(folder.glob("cache/runs/*"))


def test_ctrl_c_is_no_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "train", interrupt)
    assert fit(folder, f"image {QUICK}") == 130
    assert "interrupted; repeat the command with --resume" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.jpg~", "a.png (1)", "a.JSON", "a", ".png", "a.ümlaut"])
def test_an_example_of_any_name_is_kept(folder: Path, name: str) -> None:
    example = folder / name
    example.write_bytes(png((250, 0, 0)))
    places = ("--models", folder / "models", "--cache", folder / "cache", "--name", "mine")
    words = [*QUICK.split(), "--data", folder / "image", *places, "--example", example]
    assert main(["fit", "image", *map(str, words)]) == 0
    assert (folder / "models/mine/4/example").read_bytes() == example.read_bytes()


def test_files_whose_names_are_no_text_are_learned_from(folder: Path) -> None:
    data = folder / NO_TEXT
    subprocess.run(["cp", "-r", folder / "image", data], check=True)
    (data / "warm" / f"{NO_TEXT}.png").write_bytes(b"no image")
    assert fit(folder, f"image {QUICK} --data {data}") == 0
    manifest = (folder / "models/mine/4/manifest.yaml").read_text()
    assert "images in caf?" in manifest


def test_nothing_begins_with_a_where_it_should_be_an() -> None:
    assert {kind: words.split()[0] for kind, words in A.items()} == {
        "image": "an", "text": "a", "audio": "an", "multimodal": "an",
    }  # fmt: skip
    assert all(not name.startswith("audios") for name in NAMES.values())


def test_a_model_says_of_an_image_what_it_is(folder: Path) -> None:
    assert fit(folder, f"image {QUICK}") == 0
    manifest = (folder / "models/mine/4/manifest.yaml").read_text()
    assert "Classifies an image into 2 classes" in manifest
    assert "data: images in image" in manifest
