"""Repository: which models there are, in which state, and the batcher in front of each."""

import asyncio
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import random
from types import MappingProxyType
from typing import Literal

from service.errors import (
    BadRequest,
    EncoderMissing,
    NotFound,
    NotReady,
    OperatorError,
    Unsupported,
)
from service.manifest import MANIFEST, EncoderReference, Kind, Task
from service.memory import give_memory_back
from service.metrics import ModelSeries
from service.model import Model, load, no_encoder
from service.policy import LATEST, Policies, Policy, Routing, draw
from service.served import Leaving, Served, serve
from service.settings import Settings, check_models

logger = logging.getLogger(__name__)

PLAIN = Policy()  # of a model of which nothing was said
LOADING = "it is being loaded"

State = Literal["loading", "ready", "failed", "unloaded"]
Key = tuple[str, str]  # name and version
Fingerprint = frozenset[tuple[str, int, int]]  # of a folder: each file's name, size, time
GONE: Fingerprint = frozenset()


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one folder `models/<name>/<version>`."""

    name: str
    version: str
    state: State
    reason: str | None = None  # why it failed; where it is ready, why what lies there now did
    served: Served | None = None  # where it is ready
    seen: Fingerprint = GONE  # of the folder, when it was last loaded or refused

    @property
    def key(self) -> Key:
        return self.name, self.version


class Repository:
    """The models of one folder. Each is loaded by itself: one that is refused stops no other.

    A version that is loaded anew goes on serving until what lies in its folder now has proved
    itself; one that is taken out, or replaced, ends with the last request that has chosen it.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises:
        OperatorError: there is no such folder.
        """
        check_models(settings.models)
        self._settings = settings
        self._entries = {entry.key: entry for entry in _scan(settings.models)}
        self._policies: dict[str, Policy] = {}
        self._leaving: list[Leaving] = []
        self._orphans: set[Key] = set()  # heads whose encoder is not there
        # Whom requests without a version have got, until something changes
        self._chosen: dict[tuple[Kind, Task | None, str | None], Served] = {}
        self._opened = False
        self.draining = False

    async def open(self, policies: Policies = MappingProxyType({})) -> None:
        """Load what is wanted, as much at once as there are cores; heads after their encoders."""
        self._policies = dict(policies)
        self._entries = {entry.key: entry for entry in _scan(self._settings.models)}
        for entry in self.entries():
            if not self.policy(entry.name).wants(entry.version):
                self._show(replace(entry, state="unloaded", reason=None))
        await self._bring([entry for entry in self.entries() if entry.state != "unloaded"])
        self._opened = True

    async def apply(self, policies: Policies) -> None:
        """Serve what is wanted; for a model whose load was asked for, look at its folder."""
        before, self._policies = self._policies, dict(policies)
        self._chosen.clear()
        for name, policy in policies.items():
            if policy.loads != before.get(name, PLAIN).loads:
                await self.look(name)
            elif policy != before.get(name):
                await self._retire(name)

    def changes(self) -> dict[Key, Fingerprint]:
        """Folders that are not what was last loaded, or are gone; without a manifest, not yet."""
        found = {
            entry.key: look_at(self._folder(entry))
            for entry in _scan(self._settings.models)
            if (self._folder(entry) / MANIFEST).is_file()
        }
        gone = [entry.key for entry in self.entries() if not self._folder(entry).is_dir()]
        return {
            (name, version): seen
            for (name, version), seen in {**dict.fromkeys(gone, GONE), **found}.items()
            if self.policy(name).wants(version) and version.isdigit()
            if (name, version) not in self._entries or self._entries[name, version].seen != seen
        }

    async def look(self, name: str, only: Collection[Key] | None = None) -> None:
        """Load of a model's folder what is new there, has changed, or was refused before.

        Args:
            only: these versions, where the others are still being written.
        """
        found = {entry.key: entry for entry in _scan_model(self._settings.models / name)}
        for entry in found.values():
            self._entries.setdefault(entry.key, replace(entry, state="unloaded", reason=None))
        wanted = [entry for entry in found.values() if self.policy(name).wants(entry.version)]
        await self._bring([entry for entry in wanted if self._is_fresh(entry, only)])
        await self._retire(name, gone={key for key in self._entries if key[0] == name} - set(found))

    async def _retire(self, name: str, gone: Collection[Key] = ()) -> None:
        """End what is not wanted, or gone from the folder; heads move to encoders that stay."""
        for key in [key for key in self._entries if key[0] == name]:
            if key in gone or not self.policy(name).wants(key[1]):
                self._take_out(key)
        for key in gone:
            del self._entries[key]
        await self._bring(self._stale_heads())
        leaving, self._leaving = self._leaving, []
        await asyncio.gather(*(each.finish(self._settings.drain_seconds) for each in leaving))

    async def _bring(self, entries: Collection[Entry]) -> None:
        """Load these folders; what served under the same key goes when its successor is ready."""
        free = asyncio.Semaphore(self._settings.cores_per_worker)
        heads: list[Entry] = []

        async def load(entry: Entry) -> None:
            async with free:
                entry = replace(entry, seen=look_at(self._folder(entry)))
                try:
                    self._put(await self._load(entry))
                except EncoderMissing:
                    heads.append(entry)

        self._orphans.difference_update(entry.key for entry in entries)
        for entry in entries:
            if entry.key not in self._entries or not self._entries[entry.key].served:
                self._show(entry)
        await asyncio.gather(*(load(entry) for entry in entries))
        for entry in heads:
            try:
                self._put(await self._load(entry))
            except EncoderMissing as error:
                self._orphans.add(entry.key)
                self._put(_refused(entry, str(error)))
        if entries:
            await asyncio.to_thread(give_memory_back)  # what reading and trying them left behind

    def _put(self, entry: Entry) -> None:
        """What came of a load; in the place of one that serves, only one that serves."""
        before = self._entries[entry.key]
        if before.served and entry.served:
            self._leaving.append(Leaving(before.served))
        elif before.served:
            entry = replace(before, reason=entry.reason, seen=entry.seen)
        self._show(entry)

    def _take_out(self, key: Key) -> None:
        """No new request gets it."""
        if served := self._entries[key].served:
            self._leaving.append(Leaving(served))
        self._orphans.discard(key)
        self._show(Entry(*key, "unloaded"))

    def _show(self, entry: Entry) -> None:
        """Where the entries and the metric are set, so that they say the same."""
        self._entries[entry.key] = entry
        self._chosen.clear()
        if entry.version.isdigit():
            failed = {"failed"} if entry.reason else set()
            ModelSeries(entry.name, int(entry.version)).state({entry.state} | failed)

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
        """Whether loading has ended and there is something to serve, and all that is required."""
        serving = any(entry.served for entry in self._entries.values())
        return self._opened and serving and not self.missing and not self.draining

    @property
    def missing(self) -> list[str]:
        """The models that are required, and of which no version serves."""
        serving = {entry.name for entry in self._entries.values() if entry.served}
        return [name for name in self._settings.required_models if name not in serving]

    def versions(self, name: str) -> list[Entry]:
        """All versions of a model, the oldest first.

        Raises:
            NotFound: there is no model of that name.
        """
        found = sorted((e for e in self._entries.values() if e.name == name), key=_order)
        if not found:
            known = ", ".join(sorted({entry.name for entry in self._entries.values()}))
            raise NotFound(f"there is no model {name}; there are: {known or 'none'}")
        return found

    def find(self, name: str, version: str | None = None, request_id: str = "") -> Entry:
        """The version of a model with that number or alias.

        `latest` is the highest that is ready, else the highest. Without a version it is the one
        that the model's weights give to that request, of those that are ready; or the latest.

        Raises:
            NotFound: there is no such model or version.
        """
        versions = self.versions(name)
        routing = self.policy(name).routing
        if version is None:
            version = self._draw(name, routing, request_id)
        if version == LATEST:
            return max(versions, key=lambda entry: (entry.state == "ready", _order(entry)))
        for entry in versions:
            if entry.version == routing.number(version):
                return entry
        known = ", ".join([*(entry.version for entry in versions), *routing.aliases])
        raise NotFound(f"{name} has no version {version}; it has: {known}")

    def _draw(self, name: str, routing: Routing, request_id: str) -> str:
        weights = {
            version: weight
            for version, weight in routing.weights.items()
            if version == LATEST or self._serves(name, routing.number(version))
        }
        return draw(weights, request_id) if weights else LATEST

    def _serves(self, name: str, number: str) -> bool:
        entry = self._entries.get((name, number))
        return entry is not None and entry.served is not None

    def pick(self, name: str, version: str | None = None, request_id: str = "") -> Served:
        """That version of a model, or the one for that request, if it takes work.

        Raises:
            NotFound, NotReady: it is not there, or does not serve.
        """
        entry = self.find(name, version, request_id)
        if entry.served is None:
            reason = entry.reason or ("it is unloaded" if entry.state == "unloaded" else LOADING)
            raise NotReady(f"{name} version {entry.version} does not serve: {reason}")
        return entry.served

    def shadow(self, served: Served) -> Served | None:
        """Who gets a copy of what this one has answered, if it is this one's turn."""
        name = served.model.manifest.name
        routing = self.policy(name).routing
        if routing.shadow is None or random() >= routing.shadow.share:
            return None
        entry = self._entries.get((name, routing.number(routing.shadow.version)))
        return entry.served if entry and entry.served is not served else None

    def choose(
        self,
        kind: Kind,
        task: Task | None,
        name: str | None,
        version: str | None,
        request_id: str = "",
    ) -> Served:
        """The model for a request: the one that it names, else the only one that can do it.

        Without a task, any model that reads files of this kind will do.

        Raises:
            NotFound, NotReady: the model that was named is not there, or does not serve.
            Unsupported: it is made for something else.
            BadRequest: several could do it, and none is named.
        """
        wish = kind, task, name
        if version is None and (served := self._chosen.get(wish)):
            return served
        if name is None:
            name = self._only(kind, task)
        served = self.pick(name, version, request_id)
        manifest = served.model.manifest
        if not _can(served.model, kind, task):
            raise Unsupported(
                f"{name} cannot {task or 'preview'} {kind}; it can"
                f" {' and '.join(manifest.tasks.outputs())} {manifest.kind}"
            )
        if version is None and not self.policy(name).routing.weights:
            self._chosen[wish] = served
        return served

    def reasons(self) -> dict[str, dict[str, str]]:
        """Model -> version -> why what lies in its folder was refused."""
        found: dict[str, dict[str, str]] = {}
        for entry in self.entries():
            if entry.reason:
                found.setdefault(entry.name, {})[entry.version] = entry.reason
        return found

    def dependents(self, name: str, versions: Collection[str]) -> list[str]:
        """The heads that would have no encoder without these versions of a model."""
        staying = [
            entry.served.model
            for entry in self.entries()
            if entry.served and not (entry.name == name and entry.version in versions)
        ]
        return sorted(
            {
                head.manifest.name
                for head in staying
                for wanted in head.manifest.encoders
                if not any(_is_encoder(model, wanted) for model in staying)
            }
        )

    def able(self, kind: Kind, task: Task | None) -> list[str]:
        """The names of the models that can do this now."""
        return sorted(
            {
                entry.name
                for entry in self._entries.values()
                if entry.served and _can(entry.served.model, kind, task)
            }
        )

    def _only(self, kind: Kind, task: Task | None) -> str:
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
        return names[0]

    async def _load(self, entry: Entry) -> Entry:
        """The entry, ready or failed.

        Raises:
            EncoderMissing: it is a head whose encoder is not ready, or not yet.
        """
        if entry.state == "failed":
            return _refused(entry, str(entry.reason))
        folder = self._folder(entry)
        try:
            model = await asyncio.to_thread(load, folder, self._settings, self._find_encoder)
            encoders = tuple(self._serving(encoder) for encoder in model.encoders)
            served = serve(model, self._settings, encoders)
        except EncoderMissing:
            raise
        except OperatorError as error:
            return _refused(entry, str(error))
        except Exception as error:  # whatever it is, the other models are to be loaded
            logger.exception("%s cannot be loaded", folder)
            return _refused(entry, f"{folder}: cannot be loaded: {error!r}")
        logger.info("model ready: %s version %s", entry.name, entry.version)
        return replace(entry, state="ready", served=served)

    def _find_encoder(self, wanted: EncoderReference) -> Model:
        """The loaded encoder with those very weights, whatever its version."""
        for entry in reversed(self.entries()):
            if entry.served and _is_encoder(entry.served.model, wanted):
                return entry.served.model
        return no_encoder(wanted)

    def _serving(self, model: Model) -> Served:
        """Whoever serves this very model."""
        return next(
            entry.served
            for entry in self._entries.values()
            if entry.served and entry.served.model is model
        )

    def _stale_heads(self) -> list[Entry]:
        """Heads that hold encoders which have been replaced or taken out, or that wait for one."""
        serving = {entry.served for entry in self._entries.values() if entry.served}
        return [
            Entry(entry.name, entry.version, "loading")
            for entry in self._entries.values()
            if (entry.served and not serving.issuperset(entry.served.encoders))
            or entry.key in self._orphans
        ]

    def _is_fresh(self, entry: Entry, only: Collection[Key] | None) -> bool:
        """Whether a folder holds what does not serve."""
        known = self._entries[entry.key]
        serves = known.served is not None and known.reason is None
        changed = known.seen != look_at(self._folder(entry))
        return (only is None or entry.key in only) and (changed or not serves)

    def _folder(self, entry: Entry) -> Path:
        return self._settings.models / entry.name / entry.version

    def policy(self, name: str) -> Policy:
        """What is wanted of a model."""
        return self._policies.get(name, PLAIN)


def _is_encoder(model: Model, wanted: EncoderReference) -> bool:
    manifest = model.manifest
    embed = manifest.tasks.embed
    return (
        manifest.name == wanted.name
        and manifest.origin.sha256 == wanted.sha256
        and embed is not None
        and embed.width == wanted.width
    )


def _can(model: Model, kind: Kind, task: Task | None) -> bool:
    able = task in model.manifest.tasks.outputs() if task else not model.encoders
    return model.manifest.kind == kind and able


def _refused(entry: Entry, reason: str) -> Entry:
    logger.error("model refused: %s version %s: %s", entry.name, entry.version, reason)
    return replace(entry, state="failed", reason=reason)


def _order(entry: Entry) -> tuple[str, int]:
    return entry.name, int(entry.version) if entry.version.isdigit() else -1


def look_at(folder: Path) -> Fingerprint:
    """What tells a folder from what it was before: files, their sizes and times."""
    files = [(file.name, file.stat()) for file in folder.iterdir()] if folder.is_dir() else []
    return frozenset((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)


def _scan(models: Path) -> Iterator[Entry]:
    """Every folder that means to be a model; hidden ones are being written and wait."""
    for folder in _folders(models):
        yield from _scan_model(folder)


def _scan_model(folder: Path) -> Iterator[Entry]:
    versions = _folders(folder)
    if not versions and folder.is_dir():
        yield Entry(folder.name, "-", "failed", reason=f"{folder}: holds no version folder")
    for version in versions:
        if version.name.isdecimal() and version.name.isascii():
            yield Entry(folder.name, version.name, "loading")
        else:
            reason = f"{version}: a version is a number"
            yield Entry(folder.name, version.name, "failed", reason=reason)


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and path.name[0] not in "._")
