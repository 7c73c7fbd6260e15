"""The comparison: in each round every server is started, checked, measured and stopped, alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.compare.answers import Disagreement, NoAnswer, ask, check
from loadtests.compare.arrivals import LEAD_IN_SECONDS, PATIENCE_SECONDS, come_and_go, counted_share
from loadtests.compare.ceiling import run_in_process
from loadtests.compare.contestants import CORES, Contestant
from loadtests.compare.dialects import Answer, Body
from loadtests.compare.results import CEILING, Measurement, Results, Start
from loadtests.compare.servers.models import ALL
from loadtests.compare.serving import NotReady, Server, served
from loadtests.compare.works import Work
from loadtests.compare.wrk import ask_again_and_again

OVERLOAD_WORK = "photos"
CHECKED = 3  # payloads of each work
WARM_SECONDS = 1
ANSWERS_EACH = 3  # on each connection of a window
MOST_WINDOWS = 3  # how many times as long a window may be for that
OVERHEAD_SECONDS = 12.0  # to start, check and stop a server; to guess how long a run will take


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
        return math.ceil(min(max(self.seconds, wanted), MOST_WINDOWS * self.seconds))

    def guess_seconds(self) -> float:
        """How long it will take."""
        windows = sum(self.seconds * len(self.levels(work)) + WARM_SECONDS for work in self.works)
        overload = len(self.overloaded()) * (LEAD_IN_SECONDS + self.seconds + PATIENCE_SECONDS)
        ceiling = sum(self.seconds * (1 + len(work.batches)) + 4 for work in self.works)
        server = OVERHEAD_SECONDS + windows + overload
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
            for contestant in self._in_turn(number):
                try:
                    for line in self._visit(number, contestant):
                        yield f"round {number}  {contestant.name:16} {line}"
                except NotReady as error:
                    self._results.missing[contestant.name] = str(error)
                    yield f"round {number}  {contestant.name:16} left out: {error}"
            for work in self._plan.works:
                for line in self._visit_ceiling(number, work):
                    yield f"round {number}  {CEILING:16} {line}"

    def _in_turn(self, number: int) -> list[Contestant]:
        """Another begins each round, so that none is always the one after a rest."""
        everyone = list(self._plan.contestants)
        first = (number - 1) % max(1, len(everyone))
        ordered = [*everyone[first:], *everyone[:first]]
        return [c for c in ordered if c.name not in self._results.missing]

    def _visit(self, number: int, contestant: Contestant) -> Iterator[str]:
        """One server, from its start to its end."""
        with served(contestant, self._material.environments, self._material.logs) as server:
            ready_seconds = self._wait_until_ready(server)
            ready_bytes = server.tree.pss_bytes()
            yield f"ready after {ready_seconds:.1f} s, {ready_bytes / 2**20:.0f} MiB"
            for work in self._plan.works:
                self._check(server, work)
            for work in self._plan.works:
                for measurement in self._closed_loop(number, server, work):
                    yield self._keep(measurement)
            loaded_bytes = server.tree.pss_bytes()
            self._results.starts.append(
                Start(number, contestant.name, ready_seconds, ready_bytes, loaded_bytes)
            )
            for work in self._plan.overloaded():
                yield self._keep(self._open_loop(number, server, work))

    def _visit_ceiling(self, number: int, work: Work) -> Iterator[str]:
        files, seconds = self._material.files[work.name], self._plan.seconds
        for loops, batch in [(1, 1), *((CORES, batch) for batch in work.batches)]:
            outcome, cpu_seconds = run_in_process(
                work, files, self._material.models, loops=loops, batch=batch, seconds=seconds
            )
            yield self._keep(
                Measurement(
                    number, CEILING, work.name, "ceiling", loops, batch, outcome, cpu_seconds
                )
            )

    def _wait_until_ready(self, server: Server) -> float:
        """Seconds from its start until it had answered once with each model."""
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

    def _closed_loop(self, number: int, server: Server, work: Work) -> Iterator[Measurement]:
        content_type, files = self._material.written(server.contestant, work)
        url = f"http://127.0.0.1:{server.port}{server.contestant.dialect.paths[work.kind]}"
        alone = ask_again_and_again(url, content_type, files, 1, WARM_SECONDS)
        for level in self._plan.levels(work):
            seconds = self._plan.window(level, alone.rate)
            server.tree.settle()
            before = server.tree.cpu_seconds()
            outcome = ask_again_and_again(url, content_type, files, level, seconds)
            spent = server.tree.cpu_seconds() - before
            name = server.contestant.name
            yield Measurement(number, name, work.name, "closed", level, 1, outcome, spent)

    def _open_loop(self, number: int, server: Server, work: Work) -> Measurement:
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
        return Measurement(number, contestant.name, work.name, "open", rate, 1, outcome, spent)

    def _keep(self, measurement: Measurement) -> str:
        self._results.measurements.append(measurement)
        outcome = measurement.outcome
        return (
            f"{measurement.work:9} {measurement.loop:8} {measurement.level:5.0f}"
            f" {outcome.rate:8.1f}/s  p99 {outcome.p99 * 1000:7.1f} ms"
            + (f"  {outcome.errors} errors" if outcome.errors else "")
        )


def make_references(plan: Plan, material: Material) -> dict[tuple[str, str], list[Answer]]:
    """(precision, work) -> the right answers to its first payloads."""
    references = {}
    for precision in {contestant.precision for contestant in plan.contestants}:
        models = {kind: ALL[kind](precision) for kind in {work.kind for work in plan.works}}
        for work in plan.works:
            payloads = material.payloads(work)[:CHECKED]
            references[precision, work.name] = [models[work.kind].answer(p) for p in payloads]
    return references
