"""The comparison: each server's start and memory alone, its speed in turns with all the others'."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from loadtests.compare.answers import Disagreement, NoAnswer, ask, check
from loadtests.compare.arrivals import LEAD_IN_SECONDS, PATIENCE_SECONDS, come_and_go, counted_share
from loadtests.compare.ceiling import run_in_process
from loadtests.compare.contestants import CORES, Contestant
from loadtests.compare.dialects import Answer, Body
from loadtests.compare.outcome import Outcome
from loadtests.compare.results import CEILING, Measurement, Results, Start
from loadtests.compare.servers.models import ALL
from loadtests.compare.serving import NotReady, Server, served
from loadtests.compare.works import Work
from loadtests.compare.wrk import ask_again_and_again

OVERLOAD_WORK = "photos"
CHECKED = 3  # payloads of each work
WARM_SECONDS = 1
ANSWERS_EACH = 3  # on each connection of a window
MAX_WINDOWS = 3  # how many times as long a window may be for that
CEILING_SECONDS = 2.0  # to load its model
OVERHEAD_SECONDS = 12.0  # to start and stop a server; to guess how long a run will take

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how long."""

    contestants: Sequence[Contestant]
    works: Sequence[Work]
    rounds: int
    seconds: int  # of one window, at least
    concurrency: Sequence[int]
    overload: float  # callers who come, as a multiple of the answers that a server gave; 0: none

    def levels(self, work: Work) -> list[int]:
        return [level for level in self.concurrency if level <= work.most_concurrency]

    def overloaded(self) -> list[Work]:
        """What more callers ask for than can be answered."""
        return [work for work in self.works if self.overload and work.name == OVERLOAD_WORK]

    def window(self, level: int, rate_alone: float) -> int:
        """Long enough for a few answers on each connection, within limits.

        Without them a slow server's figure would be that of its first batch.
        """
        wanted = ANSWERS_EACH * level / rate_alone if rate_alone else math.inf
        return math.ceil(min(max(self.seconds, wanted), MAX_WINDOWS * self.seconds))

    def batches(self, work: Work, level: int) -> Sequence[int]:
        """What the ceiling is tried with; a lone caller gives nothing to batch."""
        return work.batches if level > 1 else (1,)

    def guess_seconds(self) -> float:
        """How long it will take."""
        levels = [(work, level) for work in self.works for level in self.levels(work)]
        overload = len(self.overloaded()) * (LEAD_IN_SECONDS + self.seconds + PATIENCE_SECONDS)
        warm = len(self.works) * WARM_SECONDS
        each = len(self.works) * self.seconds
        server = 2 * OVERHEAD_SECONDS + warm + each + len(levels) * self.seconds + overload
        batches = sum(len(self.batches(*pair)) for pair in levels)
        ceiling = batches * (self.seconds + CEILING_SECONDS)
        return self.rounds * (len(self.contestants) * server + ceiling)


@dataclass(frozen=True, slots=True)
class Material:
    """What a run works with: payloads, and what they look like in each dialect."""

    files: Mapping[str, Sequence[Path]]  # work -> payloads
    bodies: Path  # a folder of its own
    environments: Path
    models: Path
    logs: Path

    def payloads(self, work: Work) -> list[bytes]:
        return [file.read_bytes() for file in self.files[work.name]]

    def encoded(self, contestant: Contestant, work: Work) -> list[Body]:
        dialect = contestant.dialect
        return [dialect.encode(work.kind, payload) for payload in self.payloads(work)]

    def written(self, contestant: Contestant, work: Work) -> tuple[str, list[Path]]:
        """The content type, and the bodies as files, for a client that reads files."""
        bodies = self.encoded(contestant, work)
        folder = self.bodies / contestant.dialect.name / work.name
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:03}" for number in range(len(bodies))]
        for path, body in zip(paths, bodies, strict=True):
            path.write_bytes(body.content)
        return bodies[0].content_type, paths


class Comparison:
    """One run of a plan. What it measures is added to `results` at once."""

    def __init__(self, plan: Plan, material: Material, results: Results) -> None:
        self._plan = plan
        self._material = material
        self._results = results
        self._references = make_references(plan, material)

    def run(self) -> Iterator[str]:
        """Measure; yields a line for each thing that was done.

        Raises:
            Disagreement, NoAnswer: a server is wrong, so that its speed means nothing.
            WrkFailed, CeilingFailed: the measuring itself went wrong.
        """
        for number in range(1, self._plan.rounds + 1):
            for line in self._round(number):
                yield f"round {number}  {line}"

    def _round(self, number: int) -> Iterator[str]:
        """Starts one by one, for memory that two servers share would be counted by halves."""
        for contestant in turned(self._plan.contestants, number):
            with ExitStack() as standing:
                yield f"{contestant.name:16} {self._start(number, contestant, standing)}"
        with ExitStack() as standing:
            servers = []
            for contestant in self._plan.contestants:
                if ready := self._serve(contestant, standing):
                    server, _ = ready
                    standing.enter_context(server.tree.paused())
                    servers.append(server)
            for work in self._plan.works:
                yield from self._side_by_side(number, servers, work)

    def _serve(self, contestant: Contestant, standing: ExitStack) -> tuple[Server, float] | None:
        """One that answers each work rightly, and after how many seconds it did.

        None if it did not get ready, now or before.
        """
        if contestant.name in self._results.missing:
            return None
        material = self._material
        server = standing.enter_context(served(contestant, material.environments, material.logs))
        try:
            seconds = self._wait_until_ready(server)
        except NotReady as error:
            self._results.missing[contestant.name] = str(error)
            return None
        for work in self._plan.works:
            self._check(server, work)
        return server, seconds

    def _start(self, number: int, contestant: Contestant, standing: ExitStack) -> str:
        """How soon it is ready, and its memory then and after some of each work."""
        name = contestant.name
        if not (ready := self._serve(contestant, standing)):
            return f"left out: {self._results.missing[name]}"
        server, seconds = ready
        ready_bytes = server.tree.pss_bytes()
        for work in self._plan.works:
            self._load(server, work, max(self._plan.levels(work)), self._plan.seconds)
        loaded_bytes = server.tree.pss_bytes()
        self._results.starts.append(Start(number, name, seconds, ready_bytes, loaded_bytes))
        memory = f"{ready_bytes / 2**20:.0f} MiB, {loaded_bytes / 2**20:.0f} after work"
        return f"ready after {seconds:.1f} s, {memory}"

    def _side_by_side(self, number: int, servers: Sequence[Server], work: Work) -> Iterator[str]:
        """Windows of one number of connections follow each other: the machine changes its pace."""
        alone = {}
        for server in servers:
            with server.tree.awake():
                alone[server.port] = self._load(server, work, 1, WARM_SECONDS).rate
        for level in self._plan.levels(work):
            everyone: list[Server | None] = [*servers, None]  # None: the ceiling
            for who in turned(everyone, number):
                if who is None:
                    yield from self._ceiling(number, work, level)
                    continue
                with who.tree.awake():
                    seconds = self._plan.window(level, alone[who.port])
                    yield self._closed_loop(number, who, work, level, seconds)
        if work in self._plan.overloaded():
            for server in turned(servers, number):
                with server.tree.awake():
                    yield self._open_loop(number, server, work)

    def _ceiling(self, number: int, work: Work, level: int) -> Iterator[str]:
        files, seconds = self._material.files[work.name], self._plan.seconds
        loops = min(level, CORES)  # that stand for so many callers
        for batch in self._plan.batches(work, level):
            outcome, cpu_seconds = run_in_process(
                work, files, self._material.models, loops=loops, batch=batch, seconds=seconds
            )
            yield self._keep(
                Measurement(
                    number, CEILING, work.name, "ceiling", level, batch, outcome, cpu_seconds
                )
            )

    def _wait_until_ready(self, server: Server) -> float:
        """Seconds from its start until it had answered once with each model.

        Raises:
            NotReady: it did not in time, or ended.
        """
        kinds = {work.kind: self._material.payloads(work)[0] for work in self._plan.works}
        for kind, payload in kinds.items():
            while True:
                try:
                    ask(server.port, server.contestant.dialect, kind, payload)
                    break
                except NoAnswer as error:
                    server.give_time(error)
        return server.age()

    def _check(self, server: Server, work: Work) -> None:
        contestant = server.contestant
        references = self._references[contestant.precision, work.name]
        payloads = self._material.payloads(work)
        for number, reference in enumerate(references):
            answer = ask(server.port, contestant.dialect, work.kind, payloads[number])
            try:
                check(answer, reference)
            except Disagreement as error:
                file = self._material.files[work.name][number]
                raise Disagreement(f"{contestant.name}, {file}: {error}") from None

    def _load(self, server: Server, work: Work, level: int, seconds: int) -> Outcome:
        content_type, files = self._material.written(server.contestant, work)
        url = f"http://127.0.0.1:{server.port}{server.contestant.dialect.paths[work.kind]}"
        return ask_again_and_again(url, content_type, files, level, seconds)

    def _closed_loop(
        self, number: int, server: Server, work: Work, level: int, seconds: int
    ) -> str:
        server.tree.settle()
        before = server.tree.cpu_seconds()
        outcome = self._load(server, work, level, seconds)
        spent = server.tree.cpu_seconds() - before
        name = server.contestant.name
        return self._keep(Measurement(number, name, work.name, "closed", level, 0, outcome, spent))

    def _open_loop(self, number: int, server: Server, work: Work) -> str:
        """More callers than it can answer, by what it just showed it can."""
        contestant, seconds = server.contestant, self._plan.seconds
        rate = self._plan.overload * self._results.capacities(contestant.name, work.name)[number]
        server.tree.settle()
        before = server.tree.cpu_seconds()
        outcome = come_and_go(
            server.port,
            contestant.dialect.paths[work.kind],
            self._material.encoded(contestant, work),
            contestant.deadline,
            rate,
            seconds,
        )
        spent = (server.tree.cpu_seconds() - before) * counted_share(seconds)
        return self._keep(
            Measurement(number, contestant.name, work.name, "open", rate, 0, outcome, spent)
        )

    def _keep(self, measurement: Measurement) -> str:
        self._results.measurements.append(measurement)
        outcome = measurement.outcome
        return (
            f"{measurement.server:16} {measurement.work:9} {measurement.loop:8}"
            f" {measurement.level:5.0f} {outcome.rate:8.1f}/s  p99 {outcome.p99 * 1000:7.1f} ms"
            + (f"  {outcome.errors} errors" if outcome.errors else "")
        )


def turned(items: Sequence[T], number: int) -> list[T]:
    """Another one first in each round, so that none is always the one after a rest."""
    first = (number - 1) % max(1, len(items))
    return [*items[first:], *items[:first]]


def make_references(plan: Plan, material: Material) -> dict[tuple[str, str], list[Answer]]:
    """(precision, work) -> the right answers to its first payloads."""
    references = {}
    for precision in {contestant.precision for contestant in plan.contestants}:
        models = {kind: ALL[kind](precision) for kind in {work.kind for work in plan.works}}
        for work in plan.works:
            payloads = material.payloads(work)[:CHECKED]
            references[precision, work.name] = [models[work.kind].answer(p) for p in payloads]
    return references
