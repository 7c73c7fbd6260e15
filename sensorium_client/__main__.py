"""Files in, JSON lines out: `python -m sensorium_client classify photos/*.jpg --jsonl out.jsonl`.

Each file is answered once, whatever interrupts the run: the same command goes on where it stopped.
A service that asks for a key gets the one in the environment's SENSORIUM_API_KEY.
"""

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, get_args

from sensorium_client.client import CONCURRENCY, URL, AsyncClient
from sensorium_client.errors import NotSendable, SensoriumError
from sensorium_client.items import Modality, find_items
from sensorium_client.journal import open_journal

TIMEOUT_SECONDS = 300.0  # a service that is restarted has loaded its models by then
QUIET_SECONDS = 10.0  # between two lines about trouble: all requests in flight have the same


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the files; 0 when all of them are answered, 130 after Ctrl-C, else 1."""
    args = _parse(arguments)
    _show_trouble()
    try:
        return asyncio.run(_answer(args))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (SensoriumError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


async def _answer(args: argparse.Namespace) -> int:
    with open_journal(args.jsonl, args.task) as journal:
        _check_there(name for name in args.files if str(Path(name)) not in journal.answered)
        items = {item.name: item for item in find_items(args.files, args.modality)}
        left = [item for name, item in items.items() if name not in journal.answered]
        key = os.environ.get("SENSORIUM_API_KEY")
        try:
            async with AsyncClient(args.url, timeout=args.timeout, api_key=key) as client:
                ask_all = client.classify_all if args.task == "classify" else client.embed_all
                answers = ask_all(
                    left, concurrency=args.concurrency, progress=True, **_options(args)
                )
                async with aclosing(answers):
                    async for item, answer in answers:
                        if isinstance(answer, NotSendable):
                            print(f"left out: {answer}", file=sys.stderr)
                        else:
                            journal.write(item.name, answer)
        finally:
            statuses = [journal.answered[name] for name in items if name in journal.answered]
            print(
                f"{args.jsonl}: {len(statuses):,} of {len(items):,} files are answered,"
                f" {statuses.count('error'):,} of them refused",
                file=sys.stderr,
            )
    return 0 if len(statuses) == len(items) else 1


def _check_there(names: Iterable[str]) -> None:
    """Raises:
    NotSendable: some of these paths do not exist; nothing has been sent yet.
    """
    if missing := [name for name in names if not os.path.lexists(name)]:
        raise NotSendable(f"there is no such file or folder: {', '.join(missing)}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("files", nargs="+", metavar="FILE", help="files, and folders of them")
    add("--jsonl", type=Path, required=True, metavar="FILE", help="where the answers are written")
    add("--url", default=URL, help="of the service; default: %(default)s")
    add("--model", help="default: the only one that can do it")
    add("--version", help="default: the highest that is ready")
    add(
        "--as",
        dest="modality",
        choices=get_args(Modality),
        help="what the files are; default: as each one's suffix says",
    )
    add("--concurrency", type=int, default=CONCURRENCY, help="requests at a time; %(default)s")
    add(
        "--timeout",
        type=float,
        default=TIMEOUT_SECONDS,
        metavar="SECONDS",
        help="how long to try for a file while the service is away or busy; %(default)s",
    )
    parser = argparse.ArgumentParser(
        "python -m sensorium_client",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tasks = parser.add_subparsers(dest="task", required=True)
    classify = tasks.add_parser("classify", parents=[shared], help="labels, the likeliest first")
    classify.add_argument("--top-k", type=int, help="how many; default: the service's own, 5")
    classify.add_argument("--labels", nargs="+", help="of texts: these, by likeness")
    tasks.add_parser("embed", parents=[shared], help="vectors")
    return parser.parse_args(arguments)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What goes to the service, if it was given."""
    given = {name: getattr(args, name, None) for name in ("model", "version", "top_k", "labels")}
    return {name: value for name, value in given.items() if value is not None}


def _show_trouble() -> None:
    """Why nothing comes, on stderr, now and then."""
    last = -QUIET_SECONDS

    def is_due(_: logging.LogRecord) -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last < QUIET_SECONDS:
            return False
        last = now
        return True

    shown = logging.StreamHandler()
    shown.addFilter(is_due)
    logger = logging.getLogger("sensorium_client")
    logger.addHandler(shown)
    logger.setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
