"""The path of an item: decode, submit, interpret."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, TypeVar

from service.errors import BadRequest, DeadlineExceeded, NotReady
from service.inference.servable import Servable
from service.model.specs import Modality
from service.model.types import File, Item, Result, Sample, TensorSample, Timings

T = TypeVar("T")

Ask = tuple[Servable, str]  # a model, and one of its tasks
Files = Mapping[Modality, bytes]  # one item: one file, or for a multimodal head several


class Pipeline:
    """Files in, results out, for any model."""

    def __init__(self, decoders: int, follow: "Follow | None" = None) -> None:
        """Args:
        decoders: threads that decode files.
        follow: is told of every item, with its results; it must not wait.
        """
        self._follow = follow
        self._decoders = ThreadPoolExecutor(decoders, "decode")
        self.decoded = 0  # files, by the pool; while it grows, the pool is not stuck

    async def predict(self, asks: Sequence[Ask], item: Files, deadline: float) -> list[Result]:
        """One item's result for each ask; heads of one encoder share one pass through it.

        Args:
            deadline: on the event loop's clock, in seconds.

        Raises:
            CallerError: a file cannot be used.
            LoadError: the service has no capacity now.
        """
        started = perf_counter()
        models = {served for served, _ in asks}
        for served in models:
            _check_parts(served, item)
        readers = {r for m in models for r in m.encoders or (m,) if r.modality in item}
        results = await gather([self.read(r, item[r.modality], deadline) for r in readers])
        read = dict(zip(readers, results, strict=True))
        read |= await _compute_heads([each for each in models if each.encoders], read, deadline)
        answers = [_answer(served, task, read) for served, task in asks]
        seconds = perf_counter() - started
        for served in models:
            served.series.stages(total=seconds)
        if self._follow:
            self._follow(self, asks, item, answers, deadline)
        return answers

    async def predict_sample(
        self, served: Servable, task: str, sample: Sample, deadline: float
    ) -> Result:
        """The result of an input that came decoded."""
        result = await self.compute(served, sample, deadline)
        return _answer(served, task, {served: result})

    async def compute(
        self, served: Servable, item: Sample | TensorSample, deadline: float
    ) -> Result:
        """The row of an input that came decoded: a sample, or a row of a client's own tensors.

        Raises:
            LoadError: the service has no capacity now.
            BatchFailed: the model cannot compute it.
        """
        started = perf_counter()
        with served.admission:
            result = await served.batcher.submit(item, deadline)
        timings, total = result.timings, perf_counter() - started
        served.series.stages(queue=timings.queue, infer=timings.infer, total=total)
        return result

    async def read(self, reader: Servable, payload: bytes, deadline: float) -> Result:
        """The row of a file; the lane decodes it, or this task, or the pool of decoders."""
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
            result = await reader.batcher.submit(item, deadline)
        timings = result.timings
        timings.decode += waited
        reader.series.stages(decode=timings.decode, queue=timings.queue, infer=timings.infer)
        return result

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


Follow = Callable[[Pipeline, Sequence[Ask], Files, Sequence[Result], float], None]


async def gather(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; a single coroutine, the usual case, needs no task of its own."""
    return [await works[0]] if len(works) == 1 else await asyncio.gather(*works)


async def _compute_heads(
    heads: Sequence[Servable], read: Mapping[Servable, Result], deadline: float
) -> dict[Servable, Result]:
    """Each head's row, of the vectors that its encoders read; those without a queue one by one."""
    encoders = {encoder for head in heads for encoder in head.encoders if encoder in read}
    vectors = {each: each.model.tasks["embed"].interpret(read[each].row) for each in encoders}

    async def compute(head: Servable) -> Result:
        sample = head.model.join([vectors.get(encoder) for encoder in head.encoders])
        result = await head.batcher.submit(sample, deadline)
        head.series.stages(queue=result.timings.queue, infer=result.timings.infer)
        return result

    results = {head: await compute(head) for head in heads if head.batcher.instant}
    queued = [head for head in heads if not head.batcher.instant]
    rows = await gather([compute(head) for head in queued])
    return results | dict(zip(queued, rows, strict=True))


def _answer(served: Servable, task: str, read: Mapping[Servable, Result]) -> Result:
    """The task's answer to what the model and its encoders read."""
    results = [read[reader] for reader in served.encoders or (served,) if reader in read]
    parts = [*results, read[served]] if served.encoders else results
    row = parts[-1].row
    started = perf_counter()
    answer = served.model.tasks[task].interpret(row)
    timings = Timings(interpret=perf_counter() - started)
    served.series.stages(interpret=timings.interpret)
    truncated, cost = False, 0
    for part in parts:
        timings.queue += part.timings.queue
        timings.infer += part.timings.infer
    for result in results:
        timings.decode = max(timings.decode, result.timings.decode)
        truncated |= result.truncated
        cost += result.cost
    return Result(row, truncated, cost, timings, answer)


def _check_parts(served: Servable, item: Files) -> None:
    """Raises:
    BadRequest: the item holds a file that the model does not take.
    """
    manifest = served.model.manifest
    if unknown := sorted(set(item) - set(manifest.modalities)):
        raise BadRequest(
            f"{manifest.name} takes {', '.join(manifest.modalities)}, not {unknown[0]}", unknown[0]
        )
