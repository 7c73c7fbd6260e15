"""The one path of a request: decode, submit, interpret."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from service.errors import DeadlineExceeded
from service.manifest import Task
from service.meaning import Floats
from service.repository import Served

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timings:
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
    timings: Timings


class Pipeline:
    """Files in, predictions out, for any model."""

    def __init__(self, decoders: int) -> None:
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode")

    async def predict(
        self, served: Served, task: Task, payload: bytes, deadline: float
    ) -> Prediction:
        """One item's answer.

        Args:
            deadline: on the event loop's clock, in seconds.

        Raises:
            CallerError: the file cannot be used.
            LoadError: not now.
        """
        started = perf_counter()
        sample = await self.decode(served.model.decode, payload, deadline)
        decoded = perf_counter()
        reply = await served.batcher.submit(sample, deadline)
        replied = perf_counter()
        values = served.model.interpret(task, reply.row)
        ended = perf_counter()

        timings = Timings(
            decoded - started, reply.queue_seconds, reply.infer_seconds, ended - replied
        )
        for stage in ("decode", "queue", "infer", "interpret"):
            served.series.stage(stage, getattr(timings, stage))
        served.series.stage("total", ended - started)
        return Prediction(values, sample.truncated, timings)

    async def decode(self, decode: Callable[[bytes], T], payload: bytes, deadline: float) -> T:
        """Run a decoder in the pool; its libraries release the interpreter's lock."""
        try:
            async with asyncio.timeout_at(deadline):
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._decoders, decode, payload)
        except TimeoutError:
            raise DeadlineExceeded("the input was not decoded before the deadline") from None

    def close(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)
