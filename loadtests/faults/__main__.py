"""Do to a real service what clients and faults may do, and see whether the others feel it.

    python -m loadtests.faults                              everything, with one worker and with two
    python -m loadtests.faults bombs poison --workers 1 --quick

Writes results.json, results.md, the servers' logs and what was answered wrongly; prints the table.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from loadtests.compare.machine import describe_machine
from loadtests.compare.processes import exit_with
from loadtests.compare.serving import NotReady
from loadtests.faults.bench import Bench
from loadtests.faults.bombs import throw_bombs
from loadtests.faults.corpus import send_corpus
from loadtests.faults.ending import kill_worker, terminate
from loadtests.faults.endurance import endure
from loadtests.faults.figures import Figure, Finding, show
from loadtests.faults.leaving import leave
from loadtests.faults.overload import overload
from loadtests.faults.poison import poison
from loadtests.faults.repository import damaged_folder, management
from loadtests.faults.slow import idle_connections, slow_clients
from loadtests.faults.stuck import stuck_lane
from loadtests.faults.unread import decompression, pipelining, unread

FAULTS: dict[str, Callable[[Bench], Iterable[Figure]]] = {
    "corpus": send_corpus,
    "bombs": throw_bombs,
    "overload": overload,
    "slow": slow_clients,
    "idle": idle_connections,
    "unread": unread,
    "pipelining": pipelining,
    "decompression": decompression,
    "leaving": leave,
    "poison": poison,
    "stuck": stuck_lane,
    "folder": damaged_folder,
    "management": management,
    "terminate": terminate,
    "kill": kill_worker,
    "endurance": endure,
}
CACHE = Path(".cache/faults")
MODELS = Path("models")
QUICK_MINUTES = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the faults; 1 is returned when a figure is beyond its limit."""
    args = _parse(arguments)
    date = datetime.now(UTC)
    into = args.into or CACHE / "results" / date.strftime("%Y-%m-%d-%H%M%S")
    into.mkdir(parents=True, exist_ok=True)
    findings = []
    for name in args.faults:
        for workers in args.workers:
            minutes = QUICK_MINUTES if args.quick else args.minutes
            bench = Bench(args.models, args.photos, workers, args.quick, minutes, into)
            finding = _try(name, bench)
            findings.append(finding)
            print(f"{name}, {workers} workers: {'holds' if finding.holds else 'FAILS'}", flush=True)
            results = {
                "date": date.isoformat(timespec="seconds"),
                "machine": describe_machine(),
                "findings": [asdict(finding) for finding in findings],
            }
            (into / "results.json").write_text(json.dumps(results, indent=1))
    table = show(findings)
    (into / "results.md").write_text(f"{table}\n")
    print(table)
    return 0 if all(finding.holds for finding in findings) else 1


def _try(name: str, bench: Bench) -> Finding:
    try:
        return Finding(name, bench.workers, tuple(FAULTS[name](bench)))
    except NotReady as error:
        return Finding(name, bench.workers, (Figure(f"not tried: {error}", 0, least=1),))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m loadtests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("faults", nargs="*", metavar="NAME", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="a few minutes in place of hours")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="of the endurance run (default: %(default)s)"
    )
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--photos", type=Path, help="a folder of .jpg; else pictures are drawn")
    parser.add_argument("--into", type=Path, help="a folder for the results (default: a new one)")
    args = parser.parse_args(arguments)
    if unknown := set(args.faults) - set(FAULTS):
        parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join(FAULTS)}")
    args.faults = args.faults or list(FAULTS)
    return args


if __name__ == "__main__":
    exit_with(main)
