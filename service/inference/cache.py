"""Cache: a pipeline that keeps the results of files, within a number of bytes."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace
from time import perf_counter
from typing import Generic, TypeVar
from weakref import ref

from service.inference.pipeline import Follow, Pipeline
from service.inference.servable import Servable
from service.model.types import Result, Timings

T = TypeVar("T")

OVERHEAD_BYTES = 1024  # of an entry, beside its value: about what Python takes for its objects
QUICKLY_HASHED = 2**17  # bytes: 0.09 ms; to hand them to a thread and back takes as long


class Cache(Generic[T]):
    """Values by key, for one thread. Least recently used entries are evicted first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
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
        self._evict(key)
        if size + OVERHEAD_BYTES > self._max_bytes:
            return
        self._entries[key] = value, size + OVERHEAD_BYTES
        self._held_bytes += size + OVERHEAD_BYTES
        while self._held_bytes > self._max_bytes:
            self._evict(next(iter(self._entries)))

    def _evict(self, key: Hashable) -> None:
        _, size = self._entries.pop(key, (None, 0))
        self._held_bytes -= size


class CachedPipeline(Pipeline):
    """Computes a file only if no result of it is kept for the model."""

    def __init__(self, decoders: int, follow: Follow | None, max_bytes: int) -> None:
        super().__init__(decoders, follow)
        self._cache: Cache[Result] = Cache(max_bytes)

    async def read(self, reader: Servable, payload: bytes, deadline: float) -> Result:
        started = perf_counter()
        key = ref(reader), await _digest(payload)  # a weak reference, to free unloaded models
        kept = self._cache.find(key)
        reader.series.looked_up("hit" if kept else "miss", perf_counter() - started)
        if kept:
            return replace(kept, timings=Timings())
        result = await super().read(reader, payload, deadline)
        # A copy of the row: a view would keep the arrays of its whole batch.
        row = {name: values.copy() for name, values in result.row.items()}
        size = sum(values.nbytes for values in row.values())
        self._cache.keep(key, replace(result, row=row, timings=Timings()), size)
        return result


async def _digest(payload: bytes) -> bytes:
    """SHA-256, so that no file can be made to pass for another."""
    if len(payload) <= QUICKLY_HASHED:
        return hashlib.sha256(payload).digest()
    return await asyncio.to_thread(lambda: hashlib.sha256(payload).digest())
