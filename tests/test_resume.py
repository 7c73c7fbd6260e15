"""A run that was killed goes on where it stopped, and comes out as if it had not been."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from service.model.manifest import read_manifest
from tests.conftest import png
from tests.servers import PROJECT
from training.checkpoint import Checkpoint, Run
from training.loop import Outcome, Schedule, Score, measure, train
from training.material import Batches, part_of

SCHEDULE = Schedule(6, 0.01, weight_decay=0.01, label_smoothing=0.1, patience=3)


class Killed(Exception):
    pass


def learn(checkpoint: Checkpoint | None, die_in: int = 0) -> Outcome:
    """Six epochs of a network with dropout, on samples with noise; it dies in one of them."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3), nn.LogSoftmax(1)
    )
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(48) % 3
    points = torch.randn((48, 4), generator=random) + labels.unsqueeze(1)
    part = part_of(points, labels)
    drawn = 0

    def draw(places: torch.Tensor, random: torch.Generator) -> tuple[torch.Tensor]:
        nonlocal drawn
        drawn += 1
        if drawn == die_in:
            raise Killed
        return (points[places] + torch.randn((len(places), 4), generator=random),)

    def validate(candidate: nn.Module) -> Score:
        return measure(candidate, part)

    batches = Batches(labels, 8, draw, seed=2, balance=0.5)
    return train(network, batches, SCHEDULE, validate, checkpoint=checkpoint)


@pytest.mark.parametrize("die_in", [1, 6, 7, 20, 36])  # six batches are an epoch
def test_killed_in_any_epoch_it_ends_as_an_unbroken_run(tmp_path: Path, die_in: int) -> None:
    unbroken = learn(None)
    checkpoint = Checkpoint(tmp_path / "fit.pt")
    with pytest.raises(Killed):
        learn(checkpoint, die_in)
    torch.rand(7)  # another process has another chance
    resumed = learn(checkpoint)
    assert resumed.epochs == unbroken.epochs
    assert resumed.best == unbroken.best
    weights, expected = (o.network.state_dict() for o in (resumed, unbroken))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "fit.pt")
    first = learn(checkpoint)
    assert learn(checkpoint, die_in=1).epochs == first.epochs


def test_a_damaged_checkpoint_is_as_good_as_none(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "fit.pt")
    unbroken = learn(checkpoint)
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:1000])
    assert learn(checkpoint).epochs == unbroken.epochs


def test_another_run_s_checkpoints_are_not_taken(tmp_path: Path) -> None:
    Run(tmp_path, "batch 64", resume=True).checkpoint("fit").write({"epoch": 3})
    assert Run(tmp_path, "batch 32", resume=True).checkpoint("fit").read() is None
    assert Run(tmp_path, "batch 64", resume=True).checkpoint("fit").read() == {"epoch": 3}
    assert Run(tmp_path, "batch 64", resume=False).checkpoint("fit").read() is None


def test_a_killed_command_is_resumed(tmp_path: Path) -> None:
    for label, channel in (("red", 0), ("blue", 2)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(24):
            colour = [60, 60, 60]
            colour[channel] = 100 + 4 * number
            picture = png((colour[0], colour[1], colour[2]))
            (tmp_path / "data" / label / f"{number}.png").write_bytes(picture)

    def command(name: str) -> list[str]:
        words = "fit image --mode scratch --size 16 --epochs 60 --patience 60 --lr 0.003"
        places = ["--data", tmp_path / "data", "--models", tmp_path / name, "--cache", tmp_path]
        options = [
            *words.split(),
            "--threads",
            "1",
            *map(str, places),
            "--name",
            "mine",
            "--resume",
        ]
        return [sys.executable, "-W", "error", "-m", "training", *options]

    with subprocess.Popen(command("killed"), cwd=PROJECT, stdout=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("runs/*/fit.pt")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not (tmp_path / "killed/mine").exists()
    [kept] = tmp_path.glob("runs/*/fit.pt")
    assert len(torch.load(kept)["history"]) < 60
    subprocess.run(command("killed"), cwd=PROJECT, check=True)
    assert not list(tmp_path.glob("runs/*"))
    subprocess.run(command("unbroken"), cwd=PROJECT, check=True)
    manifests = [read_manifest(tmp_path / name / "mine/1") for name in ("killed", "unbroken")]
    assert manifests[0] == manifests[1]
