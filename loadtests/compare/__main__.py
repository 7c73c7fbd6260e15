"""Measure Sensorium beside the servers that users would pick instead, on this machine.

    python -m loadtests.compare                                  everything, about 35 minutes
    python -m loadtests.compare --only sensorium fastapi --work short --rounds 1

Writes results.json (every number), results.md and pictures, and prints the tables.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from loadtests.compare.answers import Disagreement, NoAnswer
from loadtests.compare.ceiling import CeilingFailed
from loadtests.compare.comparison import OVERLOAD_WORK, Comparison, Material, Plan
from loadtests.compare.contestants import CONTESTANTS, DEFAULT, Contestant, contestant, python_of
from loadtests.compare.environments import NotInstalled, install
from loadtests.compare.machine import describe_machine, read_versions
from loadtests.compare.payloads import make_payloads
from loadtests.compare.plots import draw
from loadtests.compare.processes import exit_with
from loadtests.compare.report import write_report
from loadtests.compare.results import Results
from loadtests.compare.works import WORKS
from loadtests.compare.wrk import WrkFailed, find_wrk

CACHE = Path(".cache/compare")
MODELS = Path("models")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 is returned when it stopped and said why."""
    args = _parse(arguments)
    try:
        find_wrk()
        _compare(args)
    except (WrkFailed, CeilingFailed, Disagreement, NoAnswer, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m loadtests.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(DEFAULT)
    parser.add_argument(
        "--only",
        nargs="+",
        type=_contestant,
        default=[contestant(name) for name in DEFAULT],
        metavar="SERVER",
        help=f"of {names}; any with -int8 runs our int8 graphs",
    )
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--seconds", type=int, default=2, help="of one window (default: %(default)s)"
    )
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument(
        "--overload",
        type=float,
        default=3.0,
        help=f"callers of {OVERLOAD_WORK} in the open loop, as a multiple of what the server"
        " answered before; 0: none (default: %(default)s)",
    )
    parser.add_argument("--photos", type=Path, help="a folder of .jpg; else pictures are drawn")
    parser.add_argument("--into", type=Path, help="a folder for the results (default: a new one)")
    return parser.parse_args(arguments)


def _contestant(name: str) -> Contestant:
    try:
        return contestant(name)
    except KeyError:
        known = ", ".join(CONTESTANTS)
        raise argparse.ArgumentTypeError(f"{name} is none of {known}") from None


def _compare(args: argparse.Namespace) -> None:
    date = datetime.now(UTC)
    options = {"rounds", "seconds", "concurrency", "overload"}
    results = Results(
        date=date.isoformat(timespec="seconds"),
        machine=describe_machine(),
        options={name: getattr(args, name) for name in sorted(options)},
    )
    plan = Plan(
        contestants=_installed(args.only, results),
        works=[WORKS[name] for name in args.work],
        rounds=args.rounds,
        seconds=args.seconds,
        concurrency=sorted(args.concurrency),
        overload=args.overload,
    )
    into = args.into or CACHE / "results" / date.strftime("%Y-%m-%d-%H%M%S")
    into.mkdir(parents=True, exist_ok=True)
    example = MODELS / "spoken-digits/1/example.wav"
    files = make_payloads(CACHE / "payloads", args.work, args.photos, example)
    print(f"about {plan.guess_seconds() / 60:.0f} minutes; results in {into}", flush=True)
    with tempfile.TemporaryDirectory(prefix="compare-") as bodies:
        material = Material(files, Path(bodies), CACHE.absolute(), MODELS, into)
        try:
            for line in Comparison(plan, material, results).run():
                print(line, flush=True)
        finally:  # what was measured before a break is kept
            (into / "results.json").write_text(json.dumps(asdict(results), indent=1))
    print(write_report(results, into))
    draw(results, into)


def _installed(wanted: Sequence[Contestant], results: Results) -> list[Contestant]:
    """Those that can be started; the others stand in the results with the reason."""
    found = []
    for candidate in wanted:
        try:
            if candidate.environment:
                install(candidate.environment, CACHE)
        except NotInstalled as error:
            results.missing[candidate.name] = f"not installed: {error}"
            print(f"{candidate.name} is left out: {error}", flush=True)
            continue
        python = python_of(candidate.environment, CACHE.absolute())
        results.versions[candidate.name] = read_versions(python)
        found.append(candidate)
    return found


if __name__ == "__main__":
    exit_with(main)
