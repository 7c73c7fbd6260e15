"""Memory: what was freed goes back to the system."""

import ctypes
from collections.abc import Callable

_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_memory_back() -> None:
    """Let go of freed pages, which glibc would keep between those in use; others keep none."""
    if _trim:
        _trim(0)
