"""Servable: a model that takes work, the batcher in front of it, and how it ends."""

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

# A head with a shorter run is computed on the event loop: the way to a lane and back takes longer.
INSTANT_SECONDS = 0.0003

# On a CPU a batch that takes longer gains nothing, and its first caller waits for its last; a GPU
# does hundreds of items in that time.
BATCH_SECONDS = 0.04


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Servable:
    """A model that takes work, as long as somebody holds it: the repository, a request, a head."""

    model: Model
    batcher: Batcher
    series: ModelSeries
    admission: Admission
    modality: Modality  # of the files that it reads; a multimodal head reads none
    admissions: tuple[Admission, ...]  # of the models that read the files
    encoders: "tuple[Servable, ...]" = ()  # whose vectors a head takes
    decodes_in_lane: bool = False


def serve(model: Model, settings: Settings, encoders: tuple[Servable, ...] = ()) -> Servable:
    """Put queue and lanes before a model.

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
    # Where every core has a lane, a file that is handed on to another thread only loses time.
    # Texts are tokenised before: their lengths decide which of them share a batch.
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
    """A model that no new request gets; it ends when the last that has chosen it lets go of it."""

    def __init__(self, served: Servable) -> None:
        self._loop, self._free = asyncio.get_running_loop(), asyncio.Event()
        self._batcher, self._session = served.batcher, served.model.session
        self._name = f"{served.model.manifest.name} version {served.model.manifest.version}"
        weakref.finalize(served, self._end).atexit = False

    def _end(self) -> None:
        self._batcher.close()
        self._session.interrupt(self._batcher.threads_at_work())  # nobody waits for their runs
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._free.set)

    async def finish(self, seconds: float) -> None:
        """Wait for its end, so long at most."""
        until = self._loop.time() + seconds
        while not self._free.is_set():
            if self._loop.time() > until:
                logger.warning("%s is out of service and still in use", self._name)
                return
            try:
                async with asyncio.timeout(1.0):
                    await self._free.wait()
            except TimeoutError:
                gc.collect()  # an error and its traceback hold each other, and what was in use
        await self._batcher.drain(seconds)
        del self._batcher, self._session  # and with them the model
        await asyncio.to_thread(give_memory_back)
