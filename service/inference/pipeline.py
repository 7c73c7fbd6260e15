"""The one path of a request: decode, submit, interpret."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, NamedTuple, TypeVar
from weakref import ref

from service.errors import BadRequest, DeadlineExceeded, NotReady
from service.inference.batching import Reply
from service.inference.cache import Cache
from service.inference.servable import Servable
from service.model.manifest import Modality, Task
from service.model.meaning import Floats
from service.model.types import File, Item, Sample, TensorSample
from service.runtime.placement import build_pool

T = TypeVar("T")

QUICKLY_HASHED = 2**17  # bytes: 0.09 ms; to hand them to a thread and back takes as long


class Timings(NamedTuple):
    """Where one item's time went, in seconds."""

    decode: float
    queue: float
    infer: float
    interpret: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to one item: float32[classes] probabilities, or a float32[width] vector."""

    values: Floats
    truncated: bool
    cost: int  # tokens of a text, else 1
    timings: Timings


class Digest(NamedTuple):
    """SHA-256 of a file, so that nobody can make one which is taken for another."""

    value: bytes
    seconds: float  # that it took


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of one file in the model that reads it."""

    reply: Reply
    truncated: bool
    cost: int
    decode_seconds: float


Ask = tuple[Servable, Task]
Files = Mapping[Modality, bytes]  # one item: one file, or for a multimodal head several


class Pipeline:
    """Files in, predictions out, for any model."""

    def __init__(self, decoders: int, follow: "Follow | None" = None, cache_bytes: int = 0) -> None:
        """Args:
        follow: is told of every item, with its answers, and must not wait.
        cache_bytes: for what came of files, so that none is computed again while it is kept.
        """
        self._cache: Cache[Reading] | None = Cache(cache_bytes) if cache_bytes else None
        self._follow = follow
        self._decoders = build_pool(decoders, "decode")
        self.decoded = 0  # files, by the pool: while it grows, none of its threads is stuck for all

    async def predict(self, asks: Sequence[Ask], item: Files, deadline: float) -> list[Prediction]:
        """One item's answer to each ask; heads of one encoder share one pass through it.

        Args:
            asks: models, each with what is asked of it.
            deadline: on the event loop's clock, in seconds.

        Raises:
            CallerError: a file cannot be used.
            LoadError: not now.
        """
        started = perf_counter()
        models = {served for served, _ in asks}
        for served in models:
            _check_parts(served, item)
        readers = {r for served in models for r in served.readers if r.modality in item}
        digests = await self._digests(item)
        readings = await gather(
            [self._recall(reader, item, digests, deadline) for reader in readers]
        )
        read = dict(zip(readers, readings, strict=True))
        predictions = await gather(
            [self._answer(served, task, read, deadline) for served, task in asks]
        )
        for served in models:
            served.series.stage("total", perf_counter() - started)
        if self._follow:
            self._follow(self, asks, item, predictions, deadline)
        return predictions

    async def predict_sample(
        self, served: Servable, task: Task, sample: Sample, deadline: float
    ) -> Prediction:
        """The answer to an input that came decoded."""
        reply = await self.compute(served, sample, deadline)
        reading = Reading(reply, sample.truncated, sample.cost, decode_seconds=0.0)
        return await self._answer(served, task, {served: reading}, deadline)

    async def compute(
        self, served: Servable, item: Sample | TensorSample, deadline: float
    ) -> Reply:
        """Submit what came decoded: a sample, or a row of a caller's own tensors.

        Raises:
            LoadError: not now.
            BatchFailed: the model cannot compute it.
        """
        started = perf_counter()
        with served.admission:
            reply = await served.batcher.submit(item, deadline)
        _record(served, reply)
        served.series.stage("total", perf_counter() - started)
        return reply

    async def _digests(self, item: Files) -> dict[Modality, Digest]:
        """Of each file, where there is a cache."""
        if self._cache is None:
            return {}
        return {modality: await _digest(payload) for modality, payload in item.items()}

    async def _recall(
        self, reader: Servable, item: Files, digests: Mapping[Modality, Digest], deadline: float
    ) -> Reading:
        """What came of the same file before, where that is kept; else what comes of it now."""
        payload = item[reader.modality]
        if self._cache is None:
            return await self._read(reader, payload, deadline)
        digest = digests[reader.modality]
        key = ref(reader), digest.value  # a reference that does not keep a model which has left
        reading = self._cache.find(key)
        reader.series.looked_up("hit" if reading else "miss", digest.seconds)
        if reading is None:
            reading = await self._read(reader, payload, deadline)
            # A row of its own: one of a batch is a part of all its rows, and would keep them.
            row = {name: values.copy() for name, values in reading.reply.row.items()}
            computed = replace(reading.reply.computed, row=row, decode_seconds=0.0)
            reply = Reply(computed, queue_seconds=0.0, infer_seconds=0.0)
            kept = replace(reading, reply=reply, decode_seconds=0.0)
            self._cache.keep(key, kept, sum(values.nbytes for values in row.values()))
        return reading

    async def _read(self, reader: Servable, payload: bytes, deadline: float) -> Reading:
        """Decode, submit; or submit what the lane decodes."""
        started = perf_counter()
        item: Item
        with reader.admission:
            if reader.decodes_in_lane:
                item = File(payload)
            elif len(payload) <= reader.model.preprocessor.quick_bytes:
                item = reader.model.decode(payload)
            else:
                item = await self.decode(reader.model.decode, payload, deadline)
            waited = perf_counter() - started
            reply = await reader.batcher.submit(item, deadline)
        decode_seconds = waited + reply.computed.decode_seconds
        reader.series.stage("decode", decode_seconds)
        _record(reader, reply)
        return Reading(reply, reply.computed.truncated, item.cost, decode_seconds)

    async def _answer(
        self, served: Servable, task: Task, read: Mapping[Servable, Reading], deadline: float
    ) -> Prediction:
        """Interpret; what a head interprets is first computed of its encoders' vectors."""
        readings = [read[reader] for reader in served.readers if reader in read]
        replies = [reading.reply for reading in readings]
        if served.encoders:
            vectors = [
                reader.model.interpret("embed", read[reader].reply.row) if reader in read else None
                for reader in served.encoders
            ]
            replies.append(await served.batcher.submit(served.model.join(vectors), deadline))
            _record(served, replies[-1])
        started = perf_counter()
        values = served.model.interpret(task, replies[-1].row)
        interpret = perf_counter() - started
        served.series.stage("interpret", interpret)
        decode = queue = infer = 0.0
        for reply in replies:
            queue += reply.queue_seconds
            infer += reply.infer_seconds
        truncated, cost = False, 0
        for reading in readings:
            decode = max(decode, reading.decode_seconds)
            truncated |= reading.truncated
            cost += reading.cost
        return Prediction(values, truncated, cost, Timings(decode, queue, infer, interpret))

    async def decode(self, decode: Callable[[bytes], T], payload: bytes, deadline: float) -> T:
        """Run a decoder in the pool; its libraries release the interpreter's lock.

        Raises:
            DeadlineExceeded: it did not end before the deadline.
            NotReady: the pool is closed, or no thread can be started.
        """

        def turn() -> T:
            try:
                return decode(payload)
            finally:
                self.decoded += 1

        try:
            decoding = asyncio.get_running_loop().run_in_executor(self._decoders, turn)
        except RuntimeError as error:
            raise NotReady(f"no decoder is free: {error}", retry_after=1.0) from error
        try:
            async with asyncio.timeout_at(deadline):
                return await decoding
        except TimeoutError:
            raise DeadlineExceeded("the input was not decoded before the deadline") from None

    def close(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)


Follow = Callable[[Pipeline, Sequence[Ask], Files, Sequence[Prediction], float], None]


async def gather(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What each gives, in order; one alone needs no task of its own, as most do not."""
    return [await works[0]] if len(works) == 1 else await asyncio.gather(*works)


async def _digest(payload: bytes) -> Digest:
    started = perf_counter()
    if len(payload) <= QUICKLY_HASHED:
        value = hashlib.sha256(payload).digest()
    else:
        value = await asyncio.to_thread(lambda: hashlib.sha256(payload).digest())
    return Digest(value, perf_counter() - started)


def _check_parts(served: Servable, item: Files) -> None:
    """Raises:
    BadRequest: the item holds what the model does not take.
    """
    manifest = served.model.manifest
    if unknown := sorted(set(item) - set(manifest.modalities)):
        raise BadRequest(
            f"{manifest.name} takes {', '.join(manifest.modalities)}, not {unknown[0]}", unknown[0]
        )


def _record(served: Servable, reply: Reply) -> None:
    served.series.stage("queue", reply.queue_seconds)
    served.series.stage("infer", reply.infer_seconds)
