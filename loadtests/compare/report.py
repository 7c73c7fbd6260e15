"""The report: a run's results as tables of Markdown."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from loadtests.compare.results import (
    CEILING,
    Measurement,
    Results,
    Spread,
    best_other,
    rates,
    ratios,
    spread,
)
from loadtests.compare.works import WORKS

OURS = "sensorium"


def write_report(results: Results, folder: Path) -> str:
    """Write `results.md`; returns its text."""
    text = "\n\n".join(part for part in _parts(results) if part) + "\n"
    (folder / "results.md").write_text(text)
    return text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown: the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(found: Spread | None, digits: int = 1, scale: float = 1.0) -> str:
    """`median (least to most)`; a dash for nothing."""
    if found is None:
        return "-"
    middle, least, most = (
        f"{value * scale:.{digits}f}" for value in (found.median, found.least, found.most)
    )
    return middle if least == most else f"{middle} ({least} to {most})"


def _parts(results: Results) -> Iterable[str]:
    machine, options = results.machine, results.options
    yield f"# Comparison of {results.date[:10]}"
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB,"
        f" {machine['system']}; commit {machine['commit']}; {options['rounds']} rounds of"
        f" {options['seconds']} s windows. Each figure: median of the rounds (least to most)."
    )
    for work in results.works():
        yield f"## {work}: {WORKS[work].about}"
        yield _closed_loop(results, work)
        yield _beside_the_best(results, work)
        yield _overload(results, work)
    yield "## Start and memory"
    yield _starts(results)
    yield "## Versions"
    yield table(
        ["server", "versions"],
        [
            [server, ", ".join(f"{name} {number}" for name, number in found.items())]
            for server, found in results.versions.items()
        ],
    )
    if results.missing:
        yield "## Left out"
        yield table(["server", "why"], [[*pair] for pair in results.missing.items()])


def _closed_loop(results: Results, work: str) -> str:
    """A row for each number of connections and server, and for the ceiling."""
    rows = []
    for level in results.levels(work):
        windows = {name: results.windows(name, work, "closed", level) for name in results.servers()}
        if found := _best_batch(results.windows(CEILING, work, "ceiling", level)):
            windows[f"{CEILING}, batches of {found[0].batch}"] = found
        ceilings = results.ceilings(work, level)
        rows += [
            [name, f"{level:.0f}", *_figures(found, ratios(rates(found), ceilings))]
            for name, found in windows.items()
            if found
        ]
    head = ["server", "at once", "answers/s", "of the ceiling", "p50 ms", "p95 ms", "p99 ms"]
    return table([*head, "CPU ms/answer", "client's cores", "errors"], rows)


def _figures(windows: Sequence[Measurement], share: Spread | None) -> list[str]:
    def over(quantity: Callable[[Measurement], float]) -> Spread | None:
        return spread(quantity(window) for window in windows)

    return [
        show(over(lambda m: m.outcome.rate)),
        show(share, 2),
        show(over(lambda m: m.outcome.p50), scale=1000),
        show(over(lambda m: m.outcome.p95), scale=1000),
        show(over(lambda m: m.outcome.p99), scale=1000),
        show(over(lambda m: m.server_cpu_seconds / max(1, m.outcome.answers)), scale=1000),
        show(over(lambda m: m.outcome.client_cpu_seconds / m.outcome.seconds), 2),
        str(sum(window.outcome.errors for window in windows)),
    ]


def _best_batch(windows: Sequence[Measurement]) -> list[Measurement]:
    """Those of the size of batch with the most answers; [] of none."""
    most = max(windows, key=lambda window: window.outcome.rate, default=None)
    return [window for window in windows if most and window.batch == most.batch]


def _beside_the_best(results: Results, work: str) -> str:
    """Ratios of ours to the fastest of the others, round by round."""
    rows = []
    for ours in (name for name in results.servers() if name.startswith(OURS)):
        for level in results.levels(work):
            windows = results.windows(ours, work, "closed", level)
            other = best_other(results, work, level, OURS)
            if windows and other:
                rows.append(
                    [
                        ours,
                        f"{level:.0f}",
                        other[0].server,
                        show(ratios(rates(windows), rates(other)), 2),
                        show(ratios(_p50s(windows), _p50s(other)), 2),
                        show(ratios(_p99s(windows), _p99s(other)), 2),
                    ]
                )
    head = ["", "at once", "the best other", "answers/s, times", "p50, times", "p99, times"]
    return table(head, rows) if rows else ""


def _p50s(windows: Sequence[Measurement]) -> dict[int, float]:
    return {window.round: window.outcome.p50 for window in windows}


def _p99s(windows: Sequence[Measurement]) -> dict[int, float]:
    return {window.round: window.outcome.p99 for window in windows}


def _overload(results: Results, work: str) -> str:
    """How many of the callers who came uninvited were answered within a second."""
    rows = []
    for server in results.servers():
        if windows := results.windows(server, work, "open"):
            in_time = {w.round: (w.outcome.in_time or 0) / w.outcome.seconds for w in windows}
            came = spread(window.level for window in windows)
            share = ratios(in_time, results.capacities(server, work))
            cpu = spread(w.outcome.client_cpu_seconds / w.outcome.seconds for w in windows)
            shown = [show(came, 0), show(spread(in_time.values())), show(share, 2), show(cpu, 2)]
            rows.append([server, *shown])
    head = ["open loop", "callers/s", "answered within 1 s, per s", "of its capacity"]
    return table([*head, "client's cores"], rows) if rows else ""


def _starts(results: Results) -> str:
    rows = []
    for server in results.servers():
        starts = [start for start in results.starts if start.server == server]
        ready = spread(start.ready_seconds for start in starts)
        memory = spread(start.ready_bytes / 2**20 for start in starts)
        loaded = spread(start.loaded_bytes / 2**20 for start in starts)
        rows.append([server, show(ready), show(memory, 0), show(loaded, 0)])
    return table(["server", "ready after s", "MiB (PSS) when ready", "after the load"], rows)
