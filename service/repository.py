"""Repository: which models there are, in which state, and the batcher in front of each."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.admission import Admission
from service.batching import Batcher, BatchLimits
from service.errors import (
    BadRequest,
    EncoderMissing,
    NotFound,
    NotReady,
    OperatorError,
    Unsupported,
)
from service.manifest import EncoderReference, Kind, Modality, Task
from service.metrics import ModelSeries
from service.model import Model, load, no_encoder
from service.settings import Provider, Settings

logger = logging.getLogger(__name__)

# What a run costs beside its items, in tokens of MiniLM: 2 ms to 0.24 ms on a core (measured); on a
# GPU, where starting a run costs as much and a token nearly nothing (a guess, there was none here).
RUN_COST, GPU_RUN_COST = 8, 256
# On a CPU a batch that takes longer gains nothing, and its first caller waits for its last; a GPU
# does hundreds of items in that time.
BATCH_SECONDS = 0.04

State = Literal["loading", "ready", "failed"]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Served:
    """A model that takes work."""

    model: Model
    batcher: Batcher
    series: ModelSeries
    admission: Admission
    encoders: "tuple[Served, ...]" = ()  # whose vectors a head takes
    decodes_in_lane: bool = False

    @property
    def readers(self) -> "tuple[Served, ...]":
        """Those that read the files: itself, or a head's encoders."""
        return self.encoders or (self,)

    @property
    def admissions(self) -> list[Admission]:
        """Of those that read the files: a head itself is done in no time."""
        return [reader.admission for reader in self.readers]

    @property
    def modality(self) -> Modality:
        """Of the files that it reads; a multimodal head reads none."""
        return self.model.manifest.modalities[0]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one folder `models/<name>/<version>`."""

    name: str
    version: str
    state: State
    reason: str | None = None  # why it failed
    served: Served | None = None  # where it is ready

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.version


class Repository:
    """The models of one folder. Each is loaded by itself: one that is refused stops no other."""

    def __init__(self, settings: Settings) -> None:
        """Raises:
        OperatorError: there is no such folder.
        """
        if not settings.models.is_dir():
            raise OperatorError(f"SENSORIUM_MODELS: there is no folder {settings.models}")
        self._settings = settings
        self._entries = {entry.key: entry for entry in _scan(settings.models)}
        self.draining = False

    async def open(self) -> None:
        """Load every model, as many at once as there are cores; heads after their encoders."""
        free = asyncio.Semaphore(self._settings.cores_per_worker)
        heads: list[Entry] = []

        async def load(entry: Entry) -> None:
            async with free:
                try:
                    self._entries[entry.key] = await self._load(entry)
                except EncoderMissing:
                    heads.append(entry)

        await asyncio.gather(*(load(entry) for entry in self.entries()))
        for entry in heads:
            try:
                self._entries[entry.key] = await self._load(entry)
            except EncoderMissing as error:
                self._entries[entry.key] = self._refuse(entry, str(error))

    async def close(self) -> None:
        """Take no more work; finish what is queued within the setting's seconds."""
        self.draining = True
        drains = (each.batcher.drain(self._settings.drain_seconds) for each in self.served())
        await asyncio.gather(*drains)

    def entries(self) -> list[Entry]:
        """All that lies in the folder, by name and version, the oldest version first."""
        return sorted(self._entries.values(), key=_order)

    def served(self) -> list[Served]:
        """The models that take work now."""
        return [entry.served for entry in self.entries() if entry.served]

    @property
    def ready(self) -> bool:
        """Whether loading has ended and there is something to serve."""
        states = {entry.state for entry in self._entries.values()}
        return "loading" not in states and "ready" in states and not self.draining

    def versions(self, name: str) -> list[Entry]:
        """All versions of a model, the oldest first.

        Raises:
            NotFound: there is no model of that name.
        """
        found = [entry for entry in self.entries() if entry.name == name]
        if not found:
            known = ", ".join(sorted({entry.name for entry in self._entries.values()}))
            raise NotFound(f"there is no model {name}; there are: {known or 'none'}")
        return found

    def find(self, name: str, version: str | None = None) -> Entry:
        """That version of a model; without one, the highest that is ready, else the highest.

        Raises:
            NotFound: there is no such model or version.
        """
        versions = self.versions(name)
        if version is None:
            return max(versions, key=lambda entry: (entry.state == "ready", _order(entry)))
        for entry in versions:
            if entry.version == version:
                return entry
        known = ", ".join(entry.version for entry in versions)
        raise NotFound(f"{name} has no version {version}; it has: {known}")

    def pick(self, name: str, version: str | None = None) -> Served:
        """That version of a model, or the highest, if it takes work.

        Raises:
            NotFound, NotReady: it is not there, or does not serve.
        """
        entry = self.find(name, version)
        if entry.served is None:
            reason = entry.reason or "it is being loaded"
            raise NotReady(f"{name} version {entry.version} does not serve: {reason}")
        return entry.served

    def choose(
        self, kind: Kind, task: Task | None, name: str | None, version: str | None
    ) -> Served:
        """The model for a request: the one that it names, else the only one that can do it.

        Without a task, any model that reads files of this kind will do.

        Raises:
            NotFound, NotReady: the model that was named is not there, or does not serve.
            Unsupported: it is made for something else.
            BadRequest: several could do it, and none is named.
        """
        if name is None:
            return self._only(kind, task)
        served = self.pick(name, version)
        manifest = served.model.manifest
        if not _can(served.model, kind, task):
            raise Unsupported(
                f"{name} cannot {task or 'preview'} {kind}; it can"
                f" {' and '.join(manifest.tasks.outputs())} {manifest.kind}"
            )
        return served

    def able(self, kind: Kind, task: Task | None) -> list[str]:
        """The names of the models that can do this now."""
        return sorted(
            {
                entry.name
                for entry in self._entries.values()
                if entry.served and _can(entry.served.model, kind, task)
            }
        )

    def _only(self, kind: Kind, task: Task | None) -> Served:
        names = self.able(kind, task)
        if len(names) > 1:
            raise BadRequest(
                f"several models can {task or 'preview'} {kind}:"
                f" say model= one of {', '.join(names)}",
                param="model",
            )
        if not names:
            if any(entry.state == "loading" for entry in self._entries.values()):
                raise NotReady("the models are being loaded")
            raise NotFound(f"no model that is ready can {task or 'preview'} {kind}")
        return self.choose(kind, task, names[0], None)

    async def _load(self, entry: Entry) -> Entry:
        """The entry, ready or failed.

        Raises:
            EncoderMissing: it is a head whose encoder is not ready, or not yet.
        """
        if entry.state == "failed":
            return self._refuse(entry, str(entry.reason))
        series = ModelSeries(entry.name, int(entry.version))
        series.state("loading")
        folder = self._settings.models / entry.name / entry.version
        try:
            model = await asyncio.to_thread(load, folder, self._settings, self._find_encoder)
        except EncoderMissing:
            raise
        except OperatorError as error:
            return self._refuse(entry, str(error))
        except Exception as error:  # whatever it is, the other models are to be loaded
            logger.exception("%s cannot be loaded", folder)
            return self._refuse(entry, f"{folder}: cannot be loaded: {error!r}")
        series.state("ready")
        logger.info("model ready: %s version %s", entry.name, entry.version)
        batching = model.manifest.batching
        on_cpu = model.provider is Provider.CPU
        limits = BatchLimits(
            batching.max_batch,
            batching.max_cost,
            RUN_COST if on_cpu else GPU_RUN_COST,
            BATCH_SECONDS,
            self._settings.max_queue,
        )
        lanes = self._settings.lanes_per_model
        batcher = Batcher(model.compute, limits, lanes, series)
        encoders = tuple(self._serving(encoder) for encoder in model.encoders)
        # Where every core has a lane, a file that is handed on to another thread only loses time.
        # Texts are tokenised before: their lengths decide which of them share a batch.
        every_core = on_cpu and lanes >= self._settings.cores_per_worker
        in_lane = every_core and model.manifest.kind != "text"
        admission = Admission(self._settings.max_wait_ms / 1000, series)
        served = Served(model, batcher, series, admission, encoders, decodes_in_lane=in_lane)
        return Entry(entry.name, entry.version, "ready", served=served)

    def _refuse(self, entry: Entry, reason: str) -> Entry:
        logger.error("model refused: %s", reason)
        if entry.version.isdigit():
            ModelSeries(entry.name, int(entry.version)).state("failed")
        return Entry(entry.name, entry.version, "failed", reason=reason)

    def _find_encoder(self, wanted: EncoderReference) -> Model:
        """The loaded encoder with those very weights, whatever its version."""
        for entry in reversed(self.entries()):
            if entry.name == wanted.name and entry.served:
                manifest = entry.served.model.manifest
                embed = manifest.tasks.embed
                same = manifest.origin.sha256 == wanted.sha256
                if same and embed and embed.width == wanted.width:
                    return entry.served.model
        return no_encoder(wanted)

    def _serving(self, model: Model) -> Served:
        """Whoever serves this very model."""
        return next(
            entry.served
            for entry in self._entries.values()
            if entry.served and entry.served.model is model
        )


def _can(model: Model, kind: Kind, task: Task | None) -> bool:
    able = task in model.manifest.tasks.outputs() if task else not model.encoders
    return model.manifest.kind == kind and able


def _order(entry: Entry) -> tuple[str, int]:
    return entry.name, int(entry.version) if entry.version.isdigit() else -1


def _scan(models: Path) -> Iterator[Entry]:
    """Every folder that means to be a model; hidden ones are being written and wait."""
    for folder in _folders(models):
        versions = list(_folders(folder))
        if not versions:
            yield Entry(folder.name, "-", "failed", reason=f"{folder}: holds no version folder")
        for version in versions:
            if version.name.isdecimal() and version.name.isascii():
                yield Entry(folder.name, version.name, "loading")
            else:
                reason = f"{version}: a version is a number"
                yield Entry(folder.name, version.name, "failed", reason=reason)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir() and path.name[0] not in "._")
