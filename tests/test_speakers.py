"""Fitting a network to recordings: honest splits, repeatable weights, a folder that serves."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.limits import InputLimits
from service.model.model import Model, load
from service.model.preprocessing.audio import AudioPreprocessor
from service.settings import Settings
from tests.conftest import wav
from training import fit, fitting, speakers
from training.augmentation import augment, change_speed
from training.disturbance import DISTURBANCES, Disturbance
from training.errors import BadData, FolderExists
from training.fitting import Recipe
from training.flags import read_hearing
from training.loop import Outcome, Schedule, Score, measure, train
from training.material import Batches
from training.networks.spectrogram import SpectrogramNet
from training.spectrograms import Spectrograms, compute_spectrograms
from training.takes import find_takes

TONES = {"low": 300, "middle": 900, "high": 2400}  # Hz
SPEAKERS = {"ann": 1.0, "bob": 0.9, "cem": 1.1}  # how high they sing
TAKES = range(3, 9)  # the first two are of the test split
SHORT = replace(speakers.RECIPE, schedule=Schedule(4, 3e-3, 0.05, 0.1, patience=4), batch=9)
RELEASED = Path(__file__).parents[1] / "models/spoken-digits/1"


def sing(hz: float, take: int, rate: int = 8000) -> bytes:
    """A tone of half a second in a little noise, no two takes alike."""
    time = np.arange(rate // 2) / rate
    noise = np.random.default_rng(take).normal(0, 0.003, len(time))
    return wav(0.2 * np.sin(2 * np.pi * hz * (1 + 0.01 * take) * time) + noise, rate)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three words, sung by three speakers, laid out as training wants them."""
    folder = tmp_path_factory.mktemp("data") / "songs"
    for word, hz in TONES.items():
        (folder / word).mkdir(parents=True)
        for speaker, height in SPEAKERS.items():
            for take in TAKES:
                (folder / word / f"{speaker}_{take:02}.wav").write_bytes(sing(hz * height, take))
    return folder


@pytest.fixture(scope="module")
def material(songs: Path) -> Spectrograms:
    return compute_spectrograms(find_takes(songs), preprocessor(), (0.9, 1.1))


def parse(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    speakers.add_arguments(parser, "audio")
    return parser.parse_args([str(word) for word in words])


def preprocessor() -> AudioPreprocessor:
    return AudioPreprocessor(read_hearing(parse(), "centre"), InputLimits())


def fit_songs(songs: Path, models: Path, *words: str | Path) -> None:
    few = ("--epochs", "6", "--batch", "6", "--lr", "0.01", "--threads", "1")
    places = ("--data", songs, "--models", models, "--name", "songs")
    fit.main(["audio", "--mode", "speakers", *map(str, (*places, *few, *words))])


def learn(material: Spectrograms, recipe: Recipe) -> Outcome:
    """A network of all speakers, after a few epochs."""
    training, _ = material.split_by_take()
    torch.manual_seed(recipe.seed)
    network = SpectrogramNet(classes=3, bands=40)
    part = material.part(training)
    return fitting.fit(network, part, None, recipe, epochs=recipe.schedule.epochs)[1]


def test_one_command_goes_from_recordings_to_a_folder_that_serves(
    songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = tmp_path / "mine.WAV"
    example.write_bytes(sing(TONES["high"], take=99))
    (tmp_path / "models/songs/1").mkdir(parents=True)
    words = ("--example", example, "--credit", "sung by sines", "--version", "1", "--replace")
    fit_songs(songs, tmp_path / "models", *words)
    model = load(tmp_path / "models/songs/1", Settings())
    assert model.labels == ("high", "low", "middle")
    files = {path.name for path in model.folder.iterdir()}
    assert files >= {"card.md", "report.html", "confusion.png", "example.wav", "example.json"}
    assert answer(model, sing(TONES["low"], take=50)) == "low"
    card = (model.folder / "card.md").read_text()
    for part in (
        "sung by sines",
        "| speaker bob |",
        "| test split as 44.1 kHz MP3 |",
        "![Confusion matrices](confusion.png)",
    ):
        assert part in card
    figures = {(one.metric, one.data): one.value for one in model.manifest.evaluation}
    assert figures["accuracy", "test split"] == 1.0  # tones of known speakers are easy
    assert ("accuracy", "speakers left out of training") in figures
    said = capsys.readouterr().out
    assert all(f"without speaker {speaker}" in said for speaker in SPEAKERS)


def test_an_interrupted_run_is_taken_up_by_the_same_flags_only(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "release", interrupt)
    seen: list[list[tuple[str, int]]] = []
    for words in ((), (), ("--seed", "5")):
        options = ("--cache", tmp_path, "--resume", *words)
        with pytest.raises(KeyboardInterrupt):
            fit_songs(songs, tmp_path / "models", *options)
        files = sorted(tmp_path.glob("runs/*/*.pt"))
        seen.append([(str(file), file.stat().st_mtime_ns) for file in files])
    stages = {Path(name).stem for name, _ in seen[0]}
    assert stages == {*(f"without-speaker-{speaker}" for speaker in SPEAKERS), "fit"}
    assert seen[0] == seen[1], "nothing was trained again"
    assert len(seen[2]) == 2 * len(seen[0])


def test_a_version_is_counted_up_and_never_overwritten_unasked(songs: Path, tmp_path: Path) -> None:
    (tmp_path / "songs" / "3").mkdir(parents=True)
    with pytest.raises(FolderExists, match="3 exists"):
        fit_songs(songs, tmp_path, "--version", "3")
    fit_songs(songs, tmp_path, "--epochs", "1")
    assert load(tmp_path / "songs" / "4", Settings()).manifest.version == 4


def test_a_speaker_who_is_left_out_is_not_trained_on_and_test_takes_are_in_neither_split(
    material: Spectrograms,
) -> None:
    for speaker in SPEAKERS:
        training, validation = material.split_by_speaker(speaker)
        assert speaker not in material.speakers[training]
        assert set(material.speakers[validation]) == {speaker}
        assert not material.is_test[training].any()
        assert not material.is_test[validation].any()
        assert len(training) + len(validation) == (~material.is_test).sum()


def test_each_fold_answers_for_its_own_takes_in_the_validation_part(songs: Path) -> None:
    course = speakers.prepare(parse("--data", songs), "audio")
    assert list(course.folds) == [f"speaker {speaker}" for speaker in SPEAKERS]
    for known, new in course.folds.values():
        assert not {item.name for item in known.items} & {item.name for item in new.items}
    joined = [item for _, new in course.folds.values() for item in new.items]
    assert list(course.parts["valid"].items) == joined


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(
    material: Spectrograms,
) -> None:
    def weights(seed: int) -> Tensor:
        network = learn(material, replace(SHORT, seed=seed)).network
        return torch.cat([part.flatten() for part in network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_early_stopping_keeps_the_best_epoch_and_ends_when_patience_does() -> None:
    losses = iter([0.9, 0.5, 0.7, 0.6, 0.4])  # the fifth epoch is never reached
    seen: list[nn.Module] = []

    def validate(network: nn.Module) -> Score:
        seen.append(nn.Linear(2, 2))
        seen[-1].load_state_dict(network[0].state_dict())  # type: ignore[index]
        return Score(next(losses), 0.5)

    network = nn.Sequential(nn.Linear(2, 2), nn.LogSoftmax(dim=1))
    inputs, labels = torch.eye(2).repeat(4, 1), torch.tensor([0, 1] * 4)
    batches = Batches(labels, 4, lambda chosen, _: (inputs[chosen],), seed=0)
    outcome = train(network, batches, Schedule(9, 0.1, 0.0, 0.0, patience=2), validate)
    assert (outcome.best, len(outcome.epochs)) == (2, 4)
    assert outcome.epochs[outcome.best - 1].valid == Score(0.5, 0.5)
    best = seen[1].get_parameter("weight")
    assert torch.equal(outcome.network.get_parameter("0.weight"), best)
    assert not torch.equal(seen[3].get_parameter("weight"), best)


def test_the_loss_falls(material: Spectrograms) -> None:
    _, test = material.split_by_take()
    schedule = Schedule(6, 1e-2, 0.05, 0.0, patience=6)
    outcome = learn(material, replace(SHORT, schedule=schedule, batch=6))
    assert outcome.epochs[-1].loss < outcome.epochs[0].loss / 2
    assert measure(outcome.network, material.part(test)).accuracy == 1


def test_gain_and_silence_around_it_do_not_change_what_the_network_sees() -> None:
    network = SpectrogramNet(classes=3, bands=16).eval()
    word = torch.rand(1, 16, 40) * 5
    framed = torch.full((1, 16, 64), -18.0)
    framed[:, :, 8:48] = word
    quieter = framed - 4.6
    assert torch.allclose(network(framed), network(quieter), atol=1e-5)


def test_augmentation_changes_every_sample_in_its_own_way_and_leaves_the_original_alone() -> None:
    original = torch.full((4, 40, 101), -18.0)
    original[:, 10:20, 20:60] = 0.0
    copy = original.clone()
    random = torch.Generator().manual_seed(0)
    changed = augment(original, speakers.AUGMENTATION, -18.0, random)
    assert torch.equal(original, copy)
    assert changed.shape == original.shape
    assert torch.isfinite(changed).all()
    for left in range(4):
        for right in range(left):
            assert not torch.equal(changed[left], changed[right])


def test_a_faster_recording_is_shorter_and_higher() -> None:
    rate = 16_000
    wave = np.sin(2 * np.pi * 500 * np.arange(rate) / rate).astype(np.float32)
    faster = change_speed(wave, 1.25, rate)
    assert len(faster) == pytest.approx(len(wave) / 1.25, abs=2)
    assert np.abs(np.fft.rfft(faster)).argmax() * rate / len(faster) == pytest.approx(625, abs=3)


def test_a_damaged_recording_is_named(tmp_path: Path) -> None:
    for word in ("yes", "no"):
        (tmp_path / word).mkdir()
        for speaker in SPEAKERS:
            for take in (4, 5):
                (tmp_path / word / f"{speaker}_{take}.wav").write_bytes(sing(400, take))
    (tmp_path / "no/bob_5.wav").write_bytes(b"no sound at all")
    with pytest.raises(BadData, match=r"no/bob_5.wav: not a supported audio file"):
        compute_spectrograms(find_takes(tmp_path), preprocessor(), ())


def test_an_example_that_cannot_be_read_stops_before_the_work(songs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="--example"):
        fit_songs(songs, tmp_path, "--example", tmp_path / "missing.wav")


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["a_04.wav", "a_05.wav"], "two speakers"),
        (["a_05.wav", "b_05.wav"], "no takes 00 to 04"),
        (["a_04.wav", "a_05.wav", "b_04.wav"], "speaker b has no takes from 05 on"),
    ],
)
def test_data_that_cannot_be_split_are_refused(
    tmp_path: Path, names: list[str], complaint: str
) -> None:
    for word in ("yes", "no"):
        (tmp_path / word).mkdir()
        for name in names:
            (tmp_path / word / name).write_bytes(sing(400, 1))
    with pytest.raises(BadData, match=complaint):
        compute_spectrograms(find_takes(tmp_path), preprocessor(), ())


def test_the_released_model_knows_the_official_test_takes(shared_data: Path) -> None:
    model = load(RELEASED, Settings())
    assert accuracy(model, shared_data, lambda path: path.read_bytes()) >= 0.98


@pytest.mark.parametrize("what", DISTURBANCES)
def test_the_released_model_survives_the_road_to_the_service(shared_data: Path, what: str) -> None:
    model = load(RELEASED, Settings())
    assert accuracy(model, shared_data, DISTURBANCES[what]) >= 0.95


def accuracy(model: Model, shared_data: Path, read: Disturbance) -> float:
    data = find_takes(shared_data / "digits")
    takes = [take for take in data.takes if take.is_test]
    right = [answer(model, read(take.path)) == data.labels[take.label] for take in takes]
    return float(np.mean(right))


def answer(model: Model, payload: bytes) -> str:
    [scores] = model.answers([model.decode(payload)])
    return model.labels[int(scores["classify"].argmax())]
