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
