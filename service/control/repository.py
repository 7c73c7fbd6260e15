"""The repository: all models, their states, and the loading and unloading of versions."""

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from weakref import WeakSet

from service.control.folders import (
    GONE,
    NO_VERSION,
    VERSION,
    Fingerprint,
    Folder,
    Key,
    faulty_folder,
    model_folders,
    scan_model,
)
from service.control.routing import NO_DEFAULTS, Defaults, Policies, Policy
from service.control.selection import PLAIN, Entry, Selection, is_encoder, order_of
from service.errors import (
    EncoderMissing,
    OperatorError,
)
from service.inference.servable import Draining, Servable, serve
from service.metrics import forget_model, show_state
from service.model.manifest import MANIFEST, PACKAGE
from service.model.model import Model, load, no_encoder
from service.model.preprocessing.vector import EncoderReference
from service.runtime.memory import give_memory_back
from service.settings import Settings, check_models
from service.supervision import detach

logger = logging.getLogger(__name__)

ROOTED = re.compile(r"(?<![\w./:])(/[^\s/:'\"]+)+/")  # the folders of an absolute path

SCAN_SECONDS = 10.0  # for one scan of a model's folder


class Repository(Selection):
    """The models of one folder. Each is loaded independently; a refused one does not affect others.

    While a version is reloaded, the old one serves until the new one is ready. An unloaded or
    replaced version drains: it ends after the requests that have chosen it. Changes of one model
    are sequential, and models do not wait for each other.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises:
        OperatorError: the folder is missing or cannot be read.
        """
        super().__init__(settings.default_models)
        check_models(settings.models)
        self._settings = settings
        paths = model_folders(settings.models)
        found = [folder for path in paths for folder in scan_model(path)]
        self._entries = {folder.key: _new_entry(folder) for folder in found}
        self._applied: dict[str, Policy] = {}  # the policies in effect
        self._following: dict[str, asyncio.Task[None]] = {}
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._scanning: dict[str, asyncio.Future[list[Folder]]] = {}  # scans that hang
        self._leaving: defaultdict[str, list[Draining]] = defaultdict(list)
        self._alive: WeakSet[Servable] = WeakSet()
        self._orphans: set[Key] = set()  # heads without their encoder
        self._opened = asyncio.Event()
        self.draining = False

    async def open(
        self, policies: Policies = MappingProxyType({}), defaults: Defaults = NO_DEFAULTS
    ) -> None:
        """Load the wanted models, one per core at a time, and heads after their encoders.

        Raises:
            OperatorError: the models folder cannot be read.
        """
        self._policies, self._applied = dict(policies), dict(policies)
        self.defaults = defaults
        self._entries = {folder.key: _new_entry(folder) for folder in await self._scan_all()}
        for entry in self.entries():
            if entry.state == "loading" and not self.policy(entry.name).wants(entry.version):
                self._set_entry(replace(entry, state="unloaded"))
        await self._bring([entry for entry in self.entries() if entry.state != "unloaded"])
        self.note_firsts()
        self._opened.set()

    async def apply(self, policies: Policies, defaults: Defaults, names: Collection[str]) -> None:
        """Apply new policies and defaults, and wait for the models of these names."""
        await self._opened.wait()
        self._policies = dict(policies)
        self.defaults = self.defaults.model_copy(update={"chosen": defaults.chosen})
        self._chosen.clear()
        for name in {*self._policies, *self._applied}:
            busy = self._following.get(name)  # checks the policy again before it ends
            if not self._follows(name) and (busy is None or busy.done()):
                self._following[name] = detach(f"changing {name}", self._apply_policy(name))
        if asked := [task for name in names if (task := self._following.get(name))]:
            await asyncio.wait(asked)
            for task in asked:
                task.result()

    async def poll(self, before: Mapping[Key, Fingerprint]) -> dict[Key, Fingerprint]:
        """Load folders that have changed since they were loaded, but not since the last poll.

        Folders without a manifest are incomplete and wait.

        Args:
            before: the changed folders that the last poll returned.

        Raises:
            OperatorError: the models folder cannot be read. All models keep serving.
        """
        await self._opened.wait()
        found: dict[str, list[Folder]] = {name: [] for name, _ in self._entries}
        for folder in await self._scan_all():
            found.setdefault(folder.name, []).append(folder)
        differing: dict[Key, Fingerprint] = {}
        for name, folders in found.items():
            differing |= dict.fromkeys(self._disappeared(name, folders), GONE)
            for folder in folders:
                known = self._entries.get(folder.key)
                changed = known is None or known.seen != folder.seen
                if changed and folder.whole and self._wants(folder):
                    differing[folder.key] = folder.seen
        settled = {key for key, seen in differing.items() if before.get(key) == seen}
        for name in {name for name, _ in settled}:
            if not self._changing[name].locked():
                detach(f"loading {name}", self._change(name, found[name], settled))
        return differing

    async def _apply_policy(self, name: str) -> None:
        while not self._follows(name):
            policy = self.policy(name)
            before = self._applied.get(name, PLAIN)
            only: Collection[Key] | None = None if policy.loads != before.loads else ()
            await self._change(name, None, only)
            self._applied[name] = policy

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies of which this worker was last notified."""
        return self._policies

    def wanted(self, name: str, policy: Policy) -> frozenset[str]:
        """The versions that a policy means now; callable from any thread.

        Without an explicit list, these are the versions that are not unloaded. While another call
        loads new versions, all versions in the folder count as well.
        """
        if policy.versions is not None:
            return policy.versions
        entries = [entry for entry in list(self._entries.values()) if entry.name == name]
        known = {entry.version for entry in entries if entry.state != "unloaded"}
        if policy.loads != self._applied.get(name, PLAIN).loads:
            found = scan_model(self._settings.models / name)
            known |= {folder.version for folder in found if not folder.fault}
        return frozenset(known)

    def _follows(self, name: str) -> bool:
        return self.policy(name) == self._applied.get(name, PLAIN)

    async def _change(
        self, name: str, folders: Collection[Folder] | None, only: Collection[Key] | None
    ) -> None:
        """Load the new, changed and refused versions of a model; unload unwanted ones.

        Args:
            folders: the model's folders; None: scan now.
            only: the versions to change, if others are still being written; None: all.
        """
        async with self._changing[name]:
            if folders is None:
                folders = await self._scan(self._settings.models / name)
            for folder in folders:
                self._entries.setdefault(folder.key, Entry(*folder.key, "unloaded"))
            fresh = [
                _new_entry(folder)
                for folder in folders
                if self._wants(folder) and self._needs_load(folder, only)
            ]
            await self._bring(fresh)
            faulty = {folder.key for folder in folders if folder.fault}
            for key in [key for key in self._entries if key[0] == name]:
                shown = key in faulty and not self._entries[key].served
                if not (self.policy(name).wants(key[1]) or shown):
                    self._unload(key)
            for key in self._disappeared(name, folders):
                if only is None or key in only or self._entries[key].served is None:
                    self._unload(key)
                    self._remove(key)
            leaving = self._leaving.pop(name, [])
        leaving += await self._reload_stale_heads()
        self.note_firsts()
        await asyncio.gather(*(each.finish(self._settings.drain_seconds) for each in leaving))

    async def _reload_stale_heads(self) -> list[Draining]:
        leaving: list[Draining] = []
        for name in {entry.name for entry in self._stale_heads()}:
            async with self._changing[name]:
                await self._bring([entry for entry in self._stale_heads() if entry.name == name])
                leaving += self._leaving.pop(name, [])
        return leaving

    def _disappeared(self, name: str, folders: Collection[Folder]) -> set[Key]:
        if any(folder.hides for folder in folders):
            return set()
        known = {key for key in self._entries if key[0] == name}
        return known - {folder.key for folder in folders}

    def _wants(self, folder: Folder) -> bool:
        """Whether the folder is wanted. Faulty folders always are, so that their fault is shown."""
        return folder.fault is not None or self.policy(folder.name).wants(folder.version)

    def _needs_load(self, folder: Folder, only: Collection[Key] | None) -> bool:
        known = self._entries[folder.key]
        serves = known.served is not None and known.reason is None
        return (only is None or folder.key in only) and (known.seen != folder.seen or not serves)

    async def _scan_all(self) -> list[Folder]:
        try:
            paths = await asyncio.to_thread(model_folders, self._settings.models)
        except OSError as error:
            raise OperatorError(f"the models folder cannot be read: {error.strerror}") from error
        return list(chain(*await asyncio.gather(*map(self._scan, paths))))

    async def _scan(self, path: Path) -> list[Folder]:
        """The versions in a model's folder; a faulty folder if its file system does not answer."""
        if path.name not in self._scanning:
            work = asyncio.ensure_future(asyncio.to_thread(scan_model, path))
            done, _ = await asyncio.wait([work], timeout=SCAN_SECONDS)
            if done:
                return work.result()
            self._scanning[path.name] = work
            work.add_done_callback(lambda _: self._scanning.pop(path.name))
        return [faulty_folder(path.name, NO_VERSION, "its file system does not answer", hides=True)]

    async def _bring(self, entries: Collection[Entry]) -> None:
        """Load these folders. A version that is replaced serves until the new one is ready."""
        self._orphans.difference_update(entry.key for entry in entries)
        for entry in entries:
            if entry.key not in self._entries or not self._entries[entry.key].served:
                self._set_entry(entry)
        heads = await self._load_all(entries)
        for entry, reason in (await self._load_all(heads)).items():
            self._orphans.add(entry.key)
            self._put(self._refuse(entry, reason))
        if entries:
            await asyncio.to_thread(give_memory_back)  # memory used for loading and checks

    async def _load_all(self, entries: Collection[Entry]) -> dict[Entry, str]:
        """Load these folders, one per core at a time.

        Returns:
            The heads whose encoder is missing, each with the reason.
        """
        free = asyncio.Semaphore(self._settings.cores_per_worker)
        missing: dict[Entry, str] = {}

        async def load(entry: Entry) -> None:
            async with free:
                try:
                    self._put(await self._load(entry))
                except EncoderMissing as error:
                    missing[entry] = str(error)

        await asyncio.gather(*(load(entry) for entry in entries))
        return missing

    def _put(self, entry: Entry) -> None:
        """Show the result of a load. A version that serves is replaced only by one that serves."""
        before = self._entries[entry.key]
        if before.served and entry.served:
            self._leaving[entry.name].append(Draining(before.served))
        elif before.served:
            entry = replace(before, reason=entry.reason, seen=entry.seen)
        self._set_entry(entry)

    def _unload(self, key: Key) -> None:
        if served := self._entries[key].served:
            self._leaving[key[0]].append(Draining(served))
        self._orphans.discard(key)
        self._set_entry(replace(self._entries[key], state="unloaded", reason=None, served=None))

    def _remove(self, key: Key) -> None:
        del self._entries[key]
        if VERSION.fullmatch(key[1]):
            forget_model(*key)

    def _set_entry(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self._chosen.clear()
        if VERSION.fullmatch(entry.version):
            failed = {"failed"} if entry.reason else set()
            show_state(*entry.key, {entry.state} | failed)

    async def close(self) -> None:
        """Refuse new work, and finish queued work within `drain_seconds`."""
        self.draining = True
        drains = (each.batcher.drain(self._settings.drain_seconds) for each in self.served())
        await asyncio.gather(*drains)

    def alive(self) -> list[Servable]:
        """All models in memory: those that serve, drain, or are held by a stuck run."""
        return list(self._alive)

    @property
    def ready(self) -> bool:
        """Whether loading has ended, and at least one model and all required models serve."""
        serving = any(entry.served for entry in self._entries.values())
        return self._opened.is_set() and serving and not self.missing and not self.draining

    @property
    def missing(self) -> list[str]:
        """The required models without a version that serves."""
        serving = {entry.name for entry in self._entries.values() if entry.served}
        return [name for name in self._settings.required_models if name not in serving]

    async def _load(self, entry: Entry) -> Entry:
        """The entry after loading, ready or failed.

        Raises:
            EncoderMissing: the encoder of this head is not ready.
        """
        if entry.state == "failed":
            return self._refuse(entry, str(entry.reason))
        folder = self._settings.models / entry.name / entry.version
        try:
            model = await asyncio.to_thread(load, folder, self._settings, self._find_encoder)
            encoders = tuple(map(self._servable_of, model.manifest.encoders, model.encoders))
            served = serve(model, self._settings, encoders)
            self._alive.add(served)
        except EncoderMissing:
            raise
        except OperatorError as error:
            return self._refuse(entry, str(error))
        except Exception as error:  # no error of one model affects the others
            logger.exception("%s cannot be loaded", folder)
            return self._refuse(entry, f"{folder}: cannot be loaded: {error!r}")
        logger.info("model ready: %s version %s", entry.name, entry.version)
        return replace(entry, state="ready", served=served)

    def _refuse(self, entry: Entry, reason: str) -> Entry:
        """The failed entry. Its reason is public, so absolute paths are removed."""
        logger.error("model refused: %s version %s: %s", entry.name, entry.version, reason)
        for root in {self._settings.models.absolute(), self._settings.models.resolve()}:
            reason = reason.replace(f"{root}/", "")
        return replace(entry, state="failed", reason=ROOTED.sub("", reason))

    def _find_encoder(self, wanted: EncoderReference) -> Model:
        entries = list(self._entries.values())  # called from any thread
        able = [each for each in entries if each.served and is_encoder(each.served.model, wanted)]
        newest = max(able, key=order_of, default=None)
        return newest.served.model if newest and newest.served else no_encoder(wanted)

    def _servable_of(self, wanted: EncoderReference, model: Model) -> Servable:
        for entry in self._entries.values():
            if entry.served and entry.served.model is model:
                return entry.served
        no_encoder(wanted)
        raise AssertionError

    def _stale_heads(self) -> list[Entry]:
        serving = {entry.served for entry in self._entries.values() if entry.served}
        return [
            Entry(entry.name, entry.version, "loading", seen=entry.seen)
            for entry in self._entries.values()
            if self.policy(entry.name).wants(entry.version)
            and (
                entry.key in self._orphans
                or (entry.served and not serving.issuperset(entry.served.encoders))
            )
        ]


def _new_entry(folder: Folder) -> Entry:
    where = folder.name if folder.version == NO_VERSION else f"{folder.name}/{folder.version}"
    fault = folder.fault or (None if folder.whole else f"holds no file {MANIFEST}; {PACKAGE}")
    reason = fault and f"{where}: {fault}"
    return Entry(*folder.key, "failed" if reason else "loading", reason, seen=folder.seen)
