"""Plots: a run's results as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtests.compare.results import CEILING, Results, Spread, rates, ratios, spread

PANEL_INCHES = (6.4, 3.4)
DPI = 110


def draw(results: Results, folder: Path) -> None:
    """Write `throughput.png`, `latency.png` and, of an open loop, `overload.png`."""
    colours = {name: f"C{number}" for number, name in enumerate(results.servers())}
    _draw_throughput(results, colours).savefig(folder / "throughput.png")
    _draw_latency(results, colours).savefig(folder / "latency.png")
    if any(m.loop == "open" for m in results.measurements):
        _draw_overload(results, colours).savefig(folder / "overload.png")


def _draw_throughput(results: Results, colours: Mapping[str, str]) -> Figure:
    """Answers a second; the line is the ceiling for the most connections."""
    figure, panels = _panels(results)
    for axes, work in zip(panels, results.works(), strict=True):
        for server, colour in colours.items():
            found = {
                level: spread(rates(results.windows(server, work, "closed", level)).values())
                for level in results.levels(work)
            }
            _bars(axes, list(colours).index(server), len(colours), found, colour, server)
        if ceiling := spread(results.ceilings(work, max(results.levels(work))).values()):
            axes.axhline(ceiling.median, color="black", linewidth=1, label=CEILING)
        axes.set_title(work)
        axes.set_ylabel("answers a second")
    return _finish(figure, panels)


def _draw_latency(results: Results, colours: Mapping[str, str]) -> Figure:
    """The 99th percentile, on a logarithmic scale."""
    figure, panels = _panels(results)
    for axes, work in zip(panels, results.works(), strict=True):
        for server, colour in colours.items():
            found = {
                level: spread(
                    m.outcome.p99 * 1000
                    for m in results.windows(server, work, "closed", level)
                    if m.outcome.p99
                )
                for level in results.levels(work)
            }
            _bars(axes, list(colours).index(server), len(colours), found, colour, server)
        axes.set_yscale("log")
        axes.set_title(work)
        axes.set_ylabel("p99, milliseconds")
    return _finish(figure, panels)


def _draw_overload(results: Results, colours: Mapping[str, str]) -> Figure:
    """Answers within a second, as a share of what the server gave in the closed loop."""
    figure = Figure(PANEL_INCHES, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for number, (server, colour) in enumerate(colours.items()):
        for work in results.works():
            in_time = {
                w.round: (w.outcome.in_time or 0) / w.outcome.seconds
                for w in results.windows(server, work, "open")
            }
            if share := ratios(in_time, results.capacities(server, work)):
                axes.barh(number, share.median, xerr=_whiskers([share]), color=colour)
    axes.set_yticks(range(len(colours)), list(colours))
    axes.invert_yaxis()
    axes.set_xlabel(
        f"answers within 1 s, at {results.options['overload']:g} times its capacity; 1 is all"
    )
    return figure


def _panels(results: Results) -> tuple[Figure, list[Axes]]:
    """One below the other, one for each work."""
    works = results.works()
    width, height = PANEL_INCHES
    figure = Figure((width * 1.4, height * len(works)), dpi=DPI, layout="constrained")
    return figure, list(figure.subplots(len(works), squeeze=False)[:, 0])


def _bars(
    axes: Axes,
    place: int,
    places: int,
    found: Mapping[float, Spread | None],
    colour: str,
    label: str,
) -> None:
    """One server's bars, in each group of bars at its own place."""
    known = [(group, value) for group, value in enumerate(found.values()) if value]
    width = 0.8 / places
    axes.bar(
        [group + (place - (places - 1) / 2) * width for group, _ in known],
        [value.median for _, value in known],
        width,
        yerr=_whiskers([value for _, value in known]),
        color=colour,
        label=label,
    )
    axes.set_xticks(range(len(found)), [f"{level:.0f} at once" for level in found])


def _whiskers(values: Sequence[Spread]) -> list[list[float]]:
    """From the least to the most, as matplotlib wants it: distances from the bar's end."""
    return [
        [value.median - value.least for value in values],
        [value.most - value.median for value in values],
    ]


def _finish(figure: Figure, panels: Sequence[Axes]) -> Figure:
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure
