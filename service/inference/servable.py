"""Servable: a loaded model with its batcher, and how it drains."""

import asyncio
import gc
import logging
import weakref
from contextlib import suppress
from dataclasses import dataclass

from service.inference.admission import Admission
from service.inference.batch import BatchLimits
from service.inference.batching import Batcher
from service.metrics import ModelSeries
from service.model.model import Model
from service.model.specs import Modality
from service.runtime.memory import give_memory_back
from service.settings import Provider, Settings

logger = logging.getLogger(__name__)

# The event loop computes heads with a shorter run: handing them to a lane takes longer.
INSTANT_SECONDS = 0.0003

# The longest batch. On a CPU a longer one gains nothing, and its first item waits for its last. A
# GPU computes hundreds of items in this time.
BATCH_SECONDS = 0.04


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Servable:
    """A model that accepts items, as long as the repository, a request or a head refers to it."""

    model: Model
    batcher: Batcher
    series: ModelSeries
    admission: Admission
    modality: Modality  # of its files; the first one of a multimodal head
    admissions: tuple[Admission, ...]  # of the models that read the files
    encoders: "tuple[Servable, ...]" = ()  # whose vectors a head takes
    decodes_in_lane: bool = False


def serve(model: Model, settings: Settings, encoders: tuple[Servable, ...] = ()) -> Servable:
    """Put a queue and lanes in front of a model.

    Args:
        encoders: whose vectors a head takes.
    """
    manifest = model.manifest
    series = ModelSeries(manifest.name, manifest.version)
    on_cpu = model.provider is Provider.CPU
    limits = BatchLimits(
        manifest.batching.max_batch,
        manifest.batching.max_cost,
        model.speed.padding,
        BATCH_SECONDS,
        settings.max_queue,
    )
    lanes = settings.lanes_per_model
    # If every core has a lane, handing a file to another thread to decode it only takes time.
    # Texts are tokenised first, because batches group similar lengths.
    every_core = on_cpu and lanes >= settings.cores_per_worker
    in_lane = every_core and not model.preprocessor.decodes_before_queue
    batcher = Batcher(
        model.compute,
        limits,
        lanes,
        series,
        speed=model.speed,
        pinned=in_lane and settings.one_lane_per_core,
        exclusive_core=next(iter(settings.exclusive_cores), None) if on_cpu else None,
        shared=on_cpu,
        instant=bool(encoders) and on_cpu and model.speed.seconds(1) < INSTANT_SECONDS,
    )
    parallel = min(lanes, settings.cores_per_worker) if on_cpu else 1
    pace = model.speed.item / parallel
    admission = Admission(settings.max_wait_ms / 1000, series, pace=pace, lanes=lanes)
    modality = manifest.modalities[0]
    admissions = tuple(encoder.admission for encoder in encoders) or (admission,)
    return Servable(model, batcher, series, admission, modality, admissions, encoders, in_lane)


class Draining:
    """A model without new requests; it ends with the last request that has chosen it."""

    def __init__(self, served: Servable) -> None:
        self._loop, self._free = asyncio.get_running_loop(), asyncio.Event()
        self._batcher, self._session = served.batcher, served.model.session
        self._name = f"{served.model.manifest.name} version {served.model.manifest.version}"
        weakref.finalize(served, self._end).atexit = False

    def _end(self) -> None:
        self._batcher.close()
        self._session.interrupt(self._batcher.threads_at_work())  # no request waits for their runs
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._free.set)

    async def finish(self, seconds: float) -> None:
        """Wait until the model ends, or for so many seconds."""
        until = self._loop.time() + seconds
        while not self._free.is_set():
            if self._loop.time() > until:
                logger.warning("%s is out of service and still in use", self._name)
                return
            try:
                async with asyncio.timeout(1.0):
                    await self._free.wait()
            except TimeoutError:
                gc.collect()  # errors and their tracebacks are cycles, and refer to the model
        await self._batcher.drain(seconds)
        del self._batcher, self._session  # the last references to the model
        await asyncio.to_thread(give_memory_back)
