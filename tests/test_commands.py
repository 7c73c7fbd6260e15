"""`python -m training`: every command is there and says what it takes."""

import subprocess
import sys

import pytest

from tests.servers import PROJECT
from training.__main__ import COMMANDS, main
from training.fit import MODES

NAMES = [[name] for name in COMMANDS if name != "fit"] + [["fit", what] for what in MODES]


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
def test_every_command_has_its_help(name: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*name, "--help"])
    assert ended.value.code == 0
    assert f"python -m training {' '.join(name)} [-h]" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["fly"], ["fit"], ["fit", "smell"]])
def test_what_there_is_not_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: python -m training" in capsys.readouterr().err


def test_packaging_and_listing_load_no_torch() -> None:
    program = (
        "import sys, runpy\n"
        "for command in ('package', 'list', 'evaluate', 'compare'):\n"
        "    sys.argv = ['training', command, '--help']\n"
        "    try: runpy.run_module('training', run_name='__main__')\n"
        "    except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True).returncode == 0


def test_the_help_of_make_shows_no_variables_of_the_makefile() -> None:
    done = subprocess.run(["make"], cwd=PROJECT, capture_output=True, text=True, check=True)
    targets = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert {"help", "serve", "test", "load", "train", "tune"} <= set(targets)
    assert "3000" in targets["serve"]
    assert "$" not in done.stdout


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("load", "--host http://127.0.0.1:3000"),
        ("load MODEL=leaves PORT=4000", "--host http://127.0.0.1:4000 --model 'leaves'"),
        ("load MODEL='leaves intents' SHAPE=step", "--model 'leaves intents' --shape step"),
        ("tune", "--model efficientnet-lite0 --p99 250"),
        ("tune MODEL=leaves", "--model leaves --p99 250"),
    ],
)
def test_make_passes_its_variables_on(words: str, command: str) -> None:
    planned = subprocess.run(
        f"make --dry-run {words}",
        shell=True,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert command in " ".join(planned.stdout.replace("\\\n", " ").split())
