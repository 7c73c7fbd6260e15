"""Memory: returns freed memory to the operating system."""

import ctypes
from collections.abc import Callable

_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_memory_back() -> None:
    """Release the freed pages that glibc keeps. Other C libraries keep none."""
    if _trim:
        _trim(0)
