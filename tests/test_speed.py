"""How long a model takes is measured when it is loaded."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.model.model import load
from service.model.speed import MAX_PADDING, UNMEASURED, Speed, measure
from service.settings import Settings
from tests.conftest import write_words


@dataclass
class Model:
    """Takes so long for a run, and for each unit of cost; time passes by it alone."""

    run: float
    unit: float
    cost: int
    now: float = 0.0
    sizes: list[int] = field(default_factory=list)

    def __call__(self, items: int) -> None:
        self.sizes.append(items)
        self.now += self.run + self.unit * items * self.cost

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("run", "unit", "cost"),
    [
        (0.002, 0.00024, 12),  # a text
        (0.001, 0.008, 1),  # a photograph
        (0.0012, 1e-6, 12),  # a GPU
        (0.0, 0.01, 1),
        (0.02, 0.0, 1),
    ],
)
def test_two_sizes_tell_what_a_run_takes_from_what_its_items_take(
    monkeypatch: pytest.MonkeyPatch, run: float, unit: float, cost: int
) -> None:
    model = Model(run, unit, cost)
    monkeypatch.setattr("service.model.speed.perf_counter", model.clock)
    speed = measure(model, cost, largest=32)
    assert speed.run == pytest.approx(run, abs=1e-9)
    assert speed.unit == pytest.approx(unit, abs=1e-9)
    assert speed.item == pytest.approx(run / max(model.sizes) + unit * cost)
    assert speed.seconds(100) == pytest.approx(run + 100 * unit)
    assert model.now < 1


def test_a_slow_model_computes_its_item_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(1.0, 9.0, cost=1)
    monkeypatch.setattr("service.model.speed.perf_counter", model.clock)
    assert measure(model, 1, largest=16) == Speed(0.0, 10.0, 10.0)
    assert model.sizes == [1]


@pytest.mark.parametrize(
    ("speed", "padding"),
    [
        (Speed(0.002, 0.00025), 8),
        (Speed(0.0, 0.1), 0),
        (Speed(0.001, 1e-12), MAX_PADDING),
        (Speed(0.001, 0.0), MAX_PADDING),
        (UNMEASURED, MAX_PADDING),
    ],
)
def test_as_much_is_padded_as_a_run_of_its_own_takes(speed: Speed, padding: float) -> None:
    assert speed.padding == pytest.approx(padding)


def test_a_model_is_measured_when_it_is_loaded(tmp_path: Path) -> None:
    speed = load(write_words(tmp_path), Settings()).speed
    assert speed.item > 0
    assert speed.run + speed.unit > 0
