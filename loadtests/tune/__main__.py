"""Find the settings with which one model answers most within a p99, on this machine.

    python -m loadtests.tune --model efficientnet-lite0 --p99 250

Serves the model with other settings again and again, for some minutes; writes what suits it best as
an environment file with a picture beside it, and prints a table. What the environment sets already
(SENSORIUM_*) stays as it is.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from loadtests.compare.answers import NoAnswer, fetch
from loadtests.compare.dialects import Body
from loadtests.compare.machine import describe_machine
from loadtests.compare.payloads import make_payloads
from loadtests.compare.processes import exit_with
from loadtests.compare.serving import ROOT, NotReady
from loadtests.payloads import Modality, Payload, read_payloads
from loadtests.tune.candidates import DEFAULTS, Candidate, single_changes, variable
from loadtests.tune.defaults import read_defaults
from loadtests.tune.models import Description, TakesSeveral, describe
from loadtests.tune.report import conclude, draw, write_settings, write_table
from loadtests.tune.selection import FINALISTS, Point, Window, choose, finalists
from loadtests.tune.trials import MODELS, Bench, Trial, measure

CACHE = Path(".cache/tune")
PAYLOADS = Path(".cache/compare/payloads")
WORKS: dict[Modality, str] = {"image": "photos", "text": "mixed", "audio": "digits"}
RECORDING = ROOT / "models/spoken-digits/1/example.wav"
PREFIX = variable("")
CALLERS_A_CORE = (2, 8)  # at once, beside a lone one


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune; 1 is returned when nothing meets the p99, or when it stopped and said why."""
    args = _parse(arguments)
    try:
        return _tune(args)
    except (NotReady, NoAnswer, TakesSeveral, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m loadtests.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--p99", required=True, type=float, metavar="MS", help="milliseconds")
    parser.add_argument(
        "--data", type=Path, help="a folder of your own pictures, texts or recordings; else made"
    )
    parser.add_argument("--into", type=Path, metavar="FILE", help=f"(default: {CACHE}/<model>.env)")
    parser.add_argument("--rounds", type=int, default=3, help="of the best (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of one window (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def _tune(args: argparse.Namespace) -> int:
    p99, into = args.p99 / 1000, args.into or CACHE / f"{args.model}.env"
    into.parent.mkdir(parents=True, exist_ok=True)
    bench, defaults = _bench(args.model), read_defaults()
    with bench.serving(args.model, DEFAULTS, bench.models) as server:
        start_seconds = server.age()
        model = describe(json.loads(fetch(server.port, "GET", f"/v1/models/{args.model}")))
        payloads = _payloads(model.modality, args.data)
        _check(server.port, model.path, payloads)
    trial = Trial(
        bench,
        model,
        bodies=[Body(payload.media_type, payload.content) for payload in payloads],
        levels=[1, *(callers * defaults.cores for callers in CALLERS_A_CORE)],
        seconds=args.seconds,
    )
    everyone = [DEFAULTS, *single_changes(defaults, model, trial.levels[-1], bench.settings)]
    visits = len(everyone) + args.rounds * min(len(everyone), FINALISTS + 2)
    minutes = visits * trial.guess_seconds(start_seconds) / 60
    print(f"{model.path}, {len(payloads)} files; about {minutes:.0f} minutes", flush=True)

    tried = measure(everyone, 1, lambda candidate: _run(trial, candidate))
    best = finalists(tried, p99)
    print(f"the best {args.rounds} times more" if best else "nothing to measure again", flush=True)
    final = measure(best, args.rounds, lambda candidate: _run(trial, candidate))
    chosen = choose(final, p99)
    points = [*final, *(point for point in tried if point.candidate not in best)]
    return _report(points, chosen, p99, model, into)


def _bench(model: str) -> Bench:
    """Raises:
    FileNotFoundError: there is no such model.
    """
    settings = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    models = Path(settings.get(MODELS, "models")).absolute()
    if not (models / model).is_dir():
        raise FileNotFoundError(f"there is no model {model} in {models}")
    logs = CACHE / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    # The same few files come again and again: found in a cache, they would say nothing.
    return Bench({**settings, MODELS: str(models), variable("cache_bytes"): "0"}, logs)


def _payloads(modality: Modality, data: Path | None) -> list[Payload]:
    """Raises:
    FileNotFoundError: that folder has none that this model reads.
    """
    if data is None:
        work = WORKS[modality]
        files = make_payloads(PAYLOADS, [work], None, RECORDING)[work]
    else:
        files = list(data.rglob("*"))
    if payloads := read_payloads(modality, files):
        return payloads
    raise FileNotFoundError(f"{data}: no {modality} that can be sent")


def _check(port: int, path: str, payloads: Sequence[Payload]) -> None:
    """Raises:
    NoAnswer: the service refuses one of them.
    """
    for payload in payloads:
        try:
            fetch(port, "POST", path, Body(payload.media_type, payload.content))
        except NoAnswer as error:
            raise NoAnswer(f"{payload.name}: {error}") from None


def _run(trial: Trial, candidate: Candidate) -> dict[int, Window]:
    """What was seen, and said so; nothing of a candidate that cannot be served."""
    try:
        found = trial.run(candidate)
    except NotReady as error:
        print(f"{candidate.label:32} left out: {error}", flush=True)
        return {}
    seen = ((callers, window.outcome) for callers, window in found.items())
    figures = (f"{callers}: {o.rate:6.1f}/s {o.p99 * 1000:5.0f} ms" for callers, o in seen)
    print(f"{candidate.label:32} {'   '.join(figures)}", flush=True)
    return found


def _report(
    points: Sequence[Point], chosen: Point | None, p99: float, model: Description, into: Path
) -> int:
    """Print the table, write the picture and, where something was chosen, the settings."""
    picture, conclusion = into.with_suffix(".png"), conclude(points, chosen, p99)
    draw(points, chosen, p99, picture)
    print(f"\n{write_table(points, chosen)}\n\n{conclusion}\npicture: {picture}")
    if chosen is None:
        return 1
    machine = describe_machine()
    head = [
        f"{model.name}, p99 within {p99 * 1000:g} ms, {datetime.now(UTC):%Y-%m-%d}",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB,"
        f" {machine['system']}; commit {machine['commit']}",
        conclusion,
    ]
    write_settings(chosen.candidate, model, head, into)
    print(f"settings: {into}")
    return 0


if __name__ == "__main__":
    exit_with(main)
