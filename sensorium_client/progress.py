"""Progress on a terminal: tqdm's bar where tqdm is installed, else a count."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int | None) -> Iterator[Callable[[], object]]:
    """What to call after each file; nothing is shown without a total, or without a terminal."""
    if total is None or not sys.stderr.isatty():
        yield lambda: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield _Count(total).advance
        print(file=sys.stderr)
        return
    with tqdm(total=total, unit=" files") as bar:
        yield bar.update


class _Count:
    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def advance(self) -> None:
        self._done += 1
        print(f"\r{self._done:,} of {self._total:,} files", end="", file=sys.stderr, flush=True)
