"""Trials: one candidate is served, alone, and asked by few and by many callers."""

import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from loadtests.compare.answers import NoAnswer, fetch
from loadtests.compare.contestants import contestant
from loadtests.compare.dialects import Body
from loadtests.compare.outcome import Outcome
from loadtests.compare.serving import NotReady, Server, served
from loadtests.tune.callers import keep_asking
from loadtests.tune.candidates import Candidate, variable
from loadtests.tune.models import Description, link_model
from loadtests.tune.selection import Point, Window

Run = Callable[[Candidate], Mapping[int, Window]]

WARM_SECONDS = 1.0
PAUSE_SECONDS = 1.5  # for the end of a service, and until it is quiet between the windows
MODELS = variable("models")


@dataclass(frozen=True, slots=True)
class Bench:
    """Where candidates are served."""

    settings: Mapping[str, str]  # SENSORIUM_*: what stays as it is, the folder of models included
    logs: Path

    @property
    def models(self) -> Path:
        return Path(self.settings[MODELS])

    @contextmanager
    def serving(self, name: str, candidate: Candidate, models: Path) -> Iterator[Server]:
        """A service in whose workers that model is ready.

        Raises:
            NotReady: with the reason.
        """
        settings = {**self.settings, **candidate.environment, MODELS: str(models)}
        ours = replace(contestant("sensorium"), name=candidate.label, env=settings)
        with served(ours, environments=self.logs, logs=self.logs) as server:
            workers = int(settings.get(variable("workers"), 1))
            _wait_until_ready(server, name, workers * len(list(models.glob("*/*/manifest.yaml"))))
            yield server


@dataclass(frozen=True, slots=True)
class Trial:
    """What every candidate goes through."""

    bench: Bench
    model: Description
    bodies: Sequence[Body]
    levels: Sequence[int]  # callers at once
    seconds: float  # of one window

    def run(self, candidate: Candidate) -> dict[int, Window]:
        """Callers at once -> what was seen.

        Raises:
            NotReady: the model cannot be served with these settings.
        """
        with tempfile.TemporaryDirectory(prefix="tune-") as folder:
            models, most = Path(folder), candidate.max_batch or self.model.max_batch
            link_model(self.bench.models, self.model, most, models)
            with self.bench.serving(self.model.name, candidate, models) as server:
                self._ask(server, self.levels[-1], WARM_SECONDS)
                return {callers: self._measure(server, callers) for callers in self.levels}

    def guess_seconds(self, start_seconds: float) -> float:
        """How long one candidate will take."""
        return start_seconds + WARM_SECONDS + len(self.levels) * self.seconds + PAUSE_SECONDS

    def _measure(self, server: Server, callers: int) -> Window:
        server.tree.settle()
        return Window(self._ask(server, callers, self.seconds), server.tree.pss_bytes())

    def _ask(self, server: Server, callers: int, seconds: float) -> Outcome:
        return keep_asking(server.port, self.model.path, self.bodies, callers, seconds)


def measure(candidates: Sequence[Candidate], rounds: int, run: Run) -> list[Point]:
    """Each candidate once a round, so that what is slow for a while is so for all.

    Another one begins each round. A candidate that cannot be served has no points.
    """
    found: dict[tuple[Candidate, int], dict[int, Window]] = {}
    turns = deque(candidates)
    for number in range(rounds):
        for candidate in turns:
            for callers, window in run(candidate).items():
                found.setdefault((candidate, callers), {})[number] = window
        turns.rotate(-1)
    return [Point(candidate, callers, seen) for (candidate, callers), seen in found.items()]


def _wait_until_ready(server: Server, name: str, models: int) -> None:
    """The metric sums the models of all workers, while one worker alone answers."""
    while True:
        try:
            card = json.loads(fetch(server.port, "GET", f"/v1/models/{name}"))
            if card["state"] == "failed":
                raise NotReady(card["reason"])
            if _loaded_models(fetch(server.port, "GET", "/metrics").decode()) >= models:
                return
            server.give_time(card["state"])
        except NoAnswer as error:
            server.give_time(error)


def _loaded_models(metrics: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == "sensorium_models" and sample.labels["state"] in ("ready", "failed")
    )
