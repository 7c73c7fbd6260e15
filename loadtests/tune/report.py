"""The report: what was tried as a table and a picture, what is chosen as an environment file."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import color_sequences
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from loadtests.compare.report import show, table
from loadtests.compare.results import spread
from loadtests.tune.candidates import DEFAULTS, MAX_BATCH, Candidate
from loadtests.tune.models import Description
from loadtests.tune.selection import Point, fastest

INCHES, DPI = (9.0, 5.0), 110
COLOURS = "tab20"


def write_table(points: Sequence[Point], chosen: Point | None) -> str:
    """A row for each candidate and number of callers; the chosen one stands out."""
    rows = []
    for point in points:
        outcomes = [window.outcome for window in point.windows.values()]
        bold = "**" if point is chosen else ""
        rows.append(
            [
                f"{bold}{point.candidate.label}{bold}",
                str(point.callers),
                show(spread(point.rates.values())),
                show(spread(outcome.p50 for outcome in outcomes), scale=1000),
                show(spread(outcome.p99 for outcome in outcomes), scale=1000),
                show(spread(o.client_cpu_seconds / o.seconds for o in outcomes), 2),
                f"{max(w.server_bytes for w in point.windows.values()) / 2**20:.0f}",
                str(point.errors),
            ]
        )
    head = ["settings", "at once", "answers/s", "p50 ms", "p99 ms", "client's cores", "MiB"]
    return table([*head, "errors"], rows)


def conclude(points: Sequence[Point], chosen: Point | None, p99: float) -> str:
    """What to do, in a sentence or two."""
    if chosen is None:
        answered = [point for point in points if point.rate and not point.errors]
        if not answered:
            return "Nothing was answered without errors."
        quickest = min(answered, key=lambda point: point.p99)
        return f"Nothing meets a p99 of {p99 * 1000:g} ms; the quickest: {figures(quickest)}."
    usual = fastest(points, DEFAULTS, p99)
    if chosen.candidate == DEFAULTS:
        return f"The defaults are as good as anything that was tried: {figures(chosen)}."
    beside = figures(usual) if usual else f"no p99 within {p99 * 1000:g} ms"
    return f"{chosen.candidate.label}: {figures(chosen)}; the defaults: {beside}."


def figures(point: Point) -> str:
    return f"{point.rate:.1f} answers/s, p99 {point.p99 * 1000:.0f} ms, {point.callers} at once"


def write_settings(
    candidate: Candidate, model: Description, head: Sequence[str], path: Path
) -> None:
    """Write `KEY=value` lines below comments; nothing that is not a setting goes uncommented."""
    comments = [*head, *_warnings(candidate, model)]
    lines = [f"{name}={value}" for name, value in candidate.environment.items()]
    path.write_text("\n".join([*(f"# {comment}" for comment in comments), *lines, ""]))


def _warnings(candidate: Candidate, model: Description) -> list[str]:
    """What an environment variable cannot say."""
    changes = dict(candidate.changes)
    found = []
    if "precision" in changes:
        found.append(
            f"{changes['precision']} changes the answers: the model's card says how much;"
            " stored vectors have to be made anew."
        )
    if MAX_BATCH in changes:
        found.append(
            f"In the manifest of {model.name}: batching.max_batch: {changes[MAX_BATCH]}"
            f" (now {model.max_batch})."
        )
    return found


def draw(points: Sequence[Point], chosen: Point | None, p99: float, path: Path) -> None:
    """Answers a second against p99, a line through each candidate's numbers of callers."""
    figure = Figure(INCHES, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=color_sequences[COLOURS])
    answered = [point for point in points if point.rate]
    for candidate in dict.fromkeys(point.candidate for point in answered):
        line = [point for point in answered if point.candidate == candidate]
        milliseconds, rates = [point.p99 * 1000 for point in line], [point.rate for point in line]
        axes.plot(milliseconds, rates, marker="o", linewidth=1, label=candidate.label)
        for point, x, y in zip(line, milliseconds, rates, strict=True):
            axes.annotate(str(point.callers), (x, y), (4, 4), textcoords="offset points")
    axes.axvline(p99 * 1000, color="black", linestyle="--", label=f"{p99 * 1000:g} ms")
    if chosen:
        x, y = chosen.p99 * 1000, chosen.rate
        axes.scatter(x, y, s=200, facecolors="none", edgecolors="black", label="chosen")
    axes.set(xlabel="p99, milliseconds", ylabel="answers a second", xscale="log", ylim=(0, None))
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter())
    figure.legend(loc="outside right upper")
    figure.savefig(path)
