"""Cache: values that were computed before, the last used of them, within a number of bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

OVERHEAD_BYTES = 1024  # of an entry, beside its value: about what Python takes for its objects


class Cache(Generic[T]):
    """Of one thread. What was not used for the longest time is forgotten first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._entries: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._held_bytes = 0

    def find(self, key: Hashable) -> T | None:
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def keep(self, key: Hashable, value: T, size: int) -> None:
        """Args:
        size: of the value, in bytes.
        """
        self._forget(key)
        if size + OVERHEAD_BYTES > self._most_bytes:
            return
        self._entries[key] = value, size + OVERHEAD_BYTES
        self._held_bytes += size + OVERHEAD_BYTES
        while self._held_bytes > self._most_bytes:
            self._forget(next(iter(self._entries)))

    def _forget(self, key: Hashable) -> None:
        _, size = self._entries.pop(key, (None, 0))
        self._held_bytes -= size
