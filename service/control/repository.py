"""Repository: which models there are, in which state, and the batcher in front of each."""

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from random import random
from types import MappingProxyType
from typing import Literal
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
from service.control.routing import LATEST, NO_DEFAULTS, Defaults, Policies, Policy, Routing, draw
from service.errors import (
    BadRequest,
    EncoderMissing,
    NotFound,
    NotReady,
    OperatorError,
    Unsupported,
)
from service.inference.servable import Draining, Servable, serve
from service.metrics import forget_model, show_state
from service.model.manifest import MANIFEST, PACKAGE
from service.model.model import Model, load, no_encoder
from service.model.preprocessing import MODALITIES
from service.model.preprocessing.vector import EncoderReference
from service.model.specs import MULTIMODAL, Kind
from service.model.tasks import TASKS
from service.runtime.memory import give_memory_back
from service.settings import Settings, check_models
from service.supervision import detach

logger = logging.getLogger(__name__)

PLAIN = Policy()  # of a model of which nothing was said
LOADING = "it is being loaded"
_USES: list[tuple[Kind, str | None]] = [
    *product((*MODALITIES, MULTIMODAL), TASKS),
    *product(MODALITIES, (None,)),
]
USES = tuple(f"{kind}/{task or 'preview'}" for kind, task in _USES)
ROOTED = re.compile(r"(?<![\w./:])(/[^\s/:'\"]+)+/")  # the folders of an absolute path

ModelState = Literal["loading", "ready", "failed", "unloaded"]
LOOK_SECONDS = 10.0  # in which a file system must say what lies in a model's folder


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one folder `models/<name>/<version>`."""

    name: str
    version: str
    state: ModelState
    reason: str | None = None  # why it failed; where it is ready, why what lies there now did
    served: Servable | None = None  # where it is ready
    seen: Fingerprint = GONE  # of the folder, when it was last loaded or refused

    @property
    def key(self) -> Key:
        return self.name, self.version

    @property
    def created(self) -> int:
        """When its manifest was written, in seconds since 1970; 0 if that is not known."""
        return next((int(time / 1e9) for file, _, time in self.seen if file == MANIFEST), 0)


class Repository:
    """The models of one folder. Each is loaded by itself: one that is refused stops no other.

    A version that is loaded anew goes on serving until what lies in its folder now has proved
    itself; one that is taken out, or replaced, ends with the last request that has chosen it.
    Changes to one model are made one after the other; no model waits for another one's folder.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises:
        OperatorError: there is no such folder, or it cannot be read.
        """
        check_models(settings.models)
        self._settings = settings
        paths = model_folders(settings.models)
        found = [folder for path in paths for folder in scan_model(path)]
        self._entries = {folder.key: _entry(folder) for folder in found}
        self._policies: dict[str, Policy] = {}
        self.defaults = NO_DEFAULTS
        self._applied: dict[str, Policy] = {}  # those that the models have followed
        self._following: dict[str, asyncio.Task[None]] = {}
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._looking: dict[str, asyncio.Future[list[Folder]]] = {}  # that have not come back
        self._leaving: defaultdict[str, list[Draining]] = defaultdict(list)
        self._alive: WeakSet[Servable] = WeakSet()
        self._orphans: set[Key] = set()  # heads whose encoder is not there
        # Whom requests without a version have got, until something changes
        self._chosen: dict[tuple[Kind, str | None, str | None], Servable] = {}
        self._opened = asyncio.Event()
        self.draining = False

    async def open(
        self, policies: Policies = MappingProxyType({}), defaults: Defaults = NO_DEFAULTS
    ) -> None:
        """Load what is wanted, as much at once as there are cores; heads after their encoders.

        Raises:
            OperatorError: the folder of models cannot be read.
        """
        self._policies, self._applied = dict(policies), dict(policies)
        self.defaults = defaults
        self._entries = {folder.key: _entry(folder) for folder in await self._scan_all()}
        for entry in self.entries():
            if entry.state == "loading" and not self.policy(entry.name).wants(entry.version):
                self._show(replace(entry, state="unloaded"))
        await self._bring([entry for entry in self.entries() if entry.state != "unloaded"])
        self._note_firsts()
        self._opened.set()

    async def apply(self, policies: Policies, defaults: Defaults, names: Collection[str]) -> None:
        """Serve what is wanted; return when the models of these names do."""
        await self._opened.wait()
        self._policies = dict(policies)
        self.defaults = self.defaults.model_copy(update={"chosen": defaults.chosen})
        self._chosen.clear()
        for name in {*self._policies, *self._applied}:
            busy = self._following.get(name)  # it looks at the policy again before it ends
            if not self._follows(name) and (busy is None or busy.done()):
                self._following[name] = detach(f"changing {name}", self._follow(name))
        if asked := [task for name in names if (task := self._following.get(name))]:
            await asyncio.wait(asked)
            for task in asked:
                task.result()

    async def poll(self, before: Mapping[Key, Fingerprint]) -> dict[Key, Fingerprint]:
        """Load what has changed and come to rest; folders without a manifest are not whole yet.

        Args:
            before: what the last poll gave: folders that are not what was last loaded, or gone.

        Raises:
            OperatorError: the folder of models cannot be read: all go on serving.
        """
        await self._opened.wait()
        found: dict[str, list[Folder]] = {name: [] for name, _ in self._entries}
        for folder in await self._scan_all():
            found.setdefault(folder.name, []).append(folder)
        differing: dict[Key, Fingerprint] = {}
        for name, folders in found.items():
            differing |= dict.fromkeys(self._gone(name, folders), GONE)
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

    async def _follow(self, name: str) -> None:
        """Do what the policy wants; where a load was asked for, look at the folder."""
        while not self._follows(name):
            policy = self.policy(name)
            before = self._applied.get(name, PLAIN)
            only: Collection[Key] | None = None if policy.loads != before.loads else ()
            await self._change(name, None, only)
            self._applied[name] = policy

    @property
    def policies(self) -> dict[str, Policy]:
        """What was wanted when this worker was last told."""
        return self._policies

    def wanted(self, name: str, policy: Policy) -> frozenset[str]:
        """The versions that a policy of now stands for; any thread may ask.

        Without a list of its own these are all that are not unloaded. While another call loads
        what is new in the folder, these are all that lie there.
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
        """Load what is new in a model's folder, has changed or was refused; end what is not wanted.

        Args:
            folders: the model's, as they were found; None: look now.
            only: these versions, where the others are still being written.
        """
        async with self._changing[name]:
            if folders is None:
                folders = await self._scan(self._settings.models / name)
            for folder in folders:
                self._entries.setdefault(folder.key, Entry(*folder.key, "unloaded"))
            fresh = [
                _entry(folder)
                for folder in folders
                if self._wants(folder) and self._is_fresh(folder, only)
            ]
            await self._bring(fresh)
            faulty = {folder.key for folder in folders if folder.fault}
            for key in [key for key in self._entries if key[0] == name]:
                shown = key in faulty and not self._entries[key].served
                if not (self.policy(name).wants(key[1]) or shown):
                    self._take_out(key)
            for key in self._gone(name, folders):
                if only is None or key in only or self._entries[key].served is None:
                    self._take_out(key)
                    self._forget(key)
            leaving = self._leaving.pop(name, [])
        leaving += await self._renew_heads()
        self._note_firsts()
        await asyncio.gather(*(each.finish(self._settings.drain_seconds) for each in leaving))

    async def _renew_heads(self) -> list[Draining]:
        """Move heads to encoders that stay; those that have been replaced."""
        leaving: list[Draining] = []
        for name in {entry.name for entry in self._stale_heads()}:
            async with self._changing[name]:
                await self._bring([entry for entry in self._stale_heads() if entry.name == name])
                leaving += self._leaving.pop(name, [])
        return leaving

    def _gone(self, name: str, folders: Collection[Folder]) -> set[Key]:
        """The versions that do not lie in the model's folder any more."""
        if any(folder.hides for folder in folders):
            return set()
        known = {key for key in self._entries if key[0] == name}
        return known - {folder.key for folder in folders}

    def _wants(self, folder: Folder) -> bool:
        """Whether it is to be loaded; a faulty folder is shown whatever is wanted."""
        return folder.fault is not None or self.policy(folder.name).wants(folder.version)

    def _is_fresh(self, folder: Folder, only: Collection[Key] | None) -> bool:
        """Whether a folder holds what does not serve."""
        known = self._entries[folder.key]
        serves = known.served is not None and known.reason is None
        return (only is None or folder.key in only) and (known.seen != folder.seen or not serves)

    async def _scan_all(self) -> list[Folder]:
        """What lies in the folder of models.

        Raises:
            OperatorError: it cannot be read.
        """
        try:
            paths = await asyncio.to_thread(model_folders, self._settings.models)
        except OSError as error:
            raise OperatorError(f"the models folder cannot be read: {error.strerror}") from error
        return list(chain(*await asyncio.gather(*map(self._scan, paths))))

    async def _scan(self, path: Path) -> list[Folder]:
        """What lies in a model's folder; one whose file system does not answer is at fault."""
        if path.name not in self._looking:
            work = asyncio.ensure_future(asyncio.to_thread(scan_model, path))
            done, _ = await asyncio.wait([work], timeout=LOOK_SECONDS)
            if done:
                return work.result()
            self._looking[path.name] = work
            work.add_done_callback(lambda _: self._looking.pop(path.name))
        return [faulty_folder(path.name, NO_VERSION, "its file system does not answer", hides=True)]

    async def _bring(self, entries: Collection[Entry]) -> None:
        """Load these folders; what served under the same key goes when its successor is ready."""
        self._orphans.difference_update(entry.key for entry in entries)
        for entry in entries:
            if entry.key not in self._entries or not self._entries[entry.key].served:
                self._show(entry)
        heads = await self._load_all(entries)
        for entry, reason in (await self._load_all(heads)).items():
            self._orphans.add(entry.key)
            self._put(self._refuse(entry, reason))
        if entries:
            await asyncio.to_thread(give_memory_back)  # what reading and trying them left behind

    async def _load_all(self, entries: Collection[Entry]) -> dict[Entry, str]:
        """Load as many at once as there are cores.

        Returns:
            Heads whose encoder is missing, each with the reason.
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
        """What came of a load; in the place of one that serves, only one that serves."""
        before = self._entries[entry.key]
        if before.served and entry.served:
            self._leaving[entry.name].append(Draining(before.served))
        elif before.served:
            entry = replace(before, reason=entry.reason, seen=entry.seen)
        self._show(entry)

    def _take_out(self, key: Key) -> None:
        """No new request gets it."""
        if served := self._entries[key].served:
            self._leaving[key[0]].append(Draining(served))
        self._orphans.discard(key)
        self._show(replace(self._entries[key], state="unloaded", reason=None, served=None))

    def _forget(self, key: Key) -> None:
        """It leaves every listing."""
        del self._entries[key]
        if VERSION.fullmatch(key[1]):
            forget_model(*key)

    def _show(self, entry: Entry) -> None:
        """Where the entries and the metric are set, so that they say the same."""
        self._entries[entry.key] = entry
        self._chosen.clear()
        if VERSION.fullmatch(entry.version):
            failed = {"failed"} if entry.reason else set()
            show_state(*entry.key, {entry.state} | failed)

    async def close(self) -> None:
        """Take no more work; finish what is queued within the setting's seconds."""
        self.draining = True
        drains = (each.batcher.drain(self._settings.drain_seconds) for each in self.served())
        await asyncio.gather(*drains)

    def entries(self) -> list[Entry]:
        """All that lies in the folder, by name and version, the oldest version first."""
        return sorted(self._entries.values(), key=_order)

    def alive(self) -> list[Servable]:
        """These, and those that are leaving, which a run that does not end may keep."""
        return list(self._alive)

    def served(self) -> list[Servable]:
        """The models that take work now."""
        return [entry.served for entry in self._entries.values() if entry.served]

    @property
    def ready(self) -> bool:
        """Whether loading has ended and there is something to serve, and all that is required."""
        serving = any(entry.served for entry in self._entries.values())
        return self._opened.is_set() and serving and not self.missing and not self.draining

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

    def pick(self, name: str, version: str | None = None, request_id: str = "") -> Servable:
        """That version of a model, or the one for that request, if it takes work.

        Raises:
            NotFound, NotReady: it is not there, or does not serve.
        """
        entry = self.find(name, version, request_id)
        if entry.served is None:
            reason = entry.reason or ("it is unloaded" if entry.state == "unloaded" else LOADING)
            raise NotReady(f"{name} version {entry.version} does not serve: {reason}")
        return entry.served

    def shadow(self, served: Servable) -> Servable | None:
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
        task: str | None,
        name: str | None,
        version: str | None,
        request_id: str = "",
    ) -> Servable:
        """The model for a request: the one that it names, else the default.

        Without a task, any model that reads files of this kind will do.

        Raises:
            NotFound, NotReady: the model that was named is not there, or does not serve.
            Unsupported: it is made for something else.
            BadRequest: several could do it, none is named and none is the default.
        """
        wish = kind, task, name
        if version is None and (served := self._chosen.get(wish)):
            return served
        if name is None:
            name = self._default(kind, task)
        served = self.pick(name, version, request_id)
        manifest = served.model.manifest
        if not _can(served.model, kind, task):
            raise Unsupported(
                f"{name} cannot {task or 'preview'} {kind}; it can"
                f" {' and '.join(manifest.tasks)} {manifest.kind}"
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

    def able(self, kind: Kind, task: str | None) -> list[str]:
        """The names of the models that can do this now."""
        return sorted(
            {
                entry.name
                for entry in self._entries.values()
                if entry.served and _can(entry.served.model, kind, task)
            }
        )

    def default(self, kind: Kind, task: str | None) -> str | None:
        """The model of requests that name none: the one that was set, else the only one.

        Of several it is the one that was there alone before the others came, else the only one
        that is no head on an encoder.
        """
        use = _use(kind, task)
        if name := self.defaults.chosen.get(use) or self._settings.default_models.get(use):
            return name
        able = self.able(kind, task)
        first = able[0] if len(able) == 1 else self.defaults.first.get(use)
        if first in able:
            return first
        entries = self._entries.values()
        heads = {entry.name for entry in entries if entry.served and entry.served.encoders}
        rest = [name for name in able if name not in heads]
        return rest[0] if len(rest) == 1 else None

    def default_uses(self) -> dict[str, str]:
        """What requests that name no model may ask for, with the model that answers."""
        found = {_use(kind, task): self.default(kind, task) for kind, task in _USES}
        return {use: name for use, name in found.items() if name}

    def _note_firsts(self) -> None:
        """A model that comes later does not take the requests of one that was there alone."""
        names = {entry.name for entry in self._entries.values()}
        first = {use: name for use, name in self.defaults.first.items() if name in names}
        for kind, task in _USES:
            able = self.able(kind, task)
            if len(able) == 1:
                first.setdefault(_use(kind, task), able[0])
        self.defaults = self.defaults.model_copy(update={"first": first})

    def _default(self, kind: Kind, task: str | None) -> str:
        if name := self.default(kind, task):
            return name
        verb = task or "preview"
        if names := self.able(kind, task):
            raise BadRequest(
                f"several models can {verb} {kind}: say model= one of {', '.join(names)}, or set a"
                f" default with SENSORIUM_DEFAULT_MODELS={_use(kind, task)}=NAME or"
                " PUT /v2/repository/defaults",
                param="model",
            )
        if any(entry.state == "loading" for entry in self._entries.values()):
            raise NotReady("the models are being loaded")
        raise NotFound(f"no model that is ready can {verb} {kind}")

    async def _load(self, entry: Entry) -> Entry:
        """The entry, ready or failed.

        Raises:
            EncoderMissing: it is a head whose encoder is not ready, or not yet.
        """
        if entry.state == "failed":
            return self._refuse(entry, str(entry.reason))
        folder = self._settings.models / entry.name / entry.version
        try:
            model = await asyncio.to_thread(load, folder, self._settings, self._find_encoder)
            encoders = tuple(map(self._serving, model.manifest.encoders, model.encoders))
            served = serve(model, self._settings, encoders)
            self._alive.add(served)
        except EncoderMissing:
            raise
        except OperatorError as error:
            return self._refuse(entry, str(error))
        except Exception as error:  # whatever it is, the other models are to be loaded
            logger.exception("%s cannot be loaded", folder)
            return self._refuse(entry, f"{folder}: cannot be loaded: {error!r}")
        logger.info("model ready: %s version %s", entry.name, entry.version)
        return replace(entry, state="ready", served=served)

    def _refuse(self, entry: Entry, reason: str) -> Entry:
        """The entry, failed. What anybody may read holds no path of this machine's."""
        logger.error("model refused: %s version %s: %s", entry.name, entry.version, reason)
        for root in {self._settings.models.absolute(), self._settings.models.resolve()}:
            reason = reason.replace(f"{root}/", "")
        return replace(entry, state="failed", reason=ROOTED.sub("", reason))

    def _find_encoder(self, wanted: EncoderReference) -> Model:
        """The loaded encoder with those very weights, whatever its version."""
        entries = list(self._entries.values())  # any thread may ask
        able = [each for each in entries if each.served and _is_encoder(each.served.model, wanted)]
        newest = max(able, key=_order, default=None)
        return newest.served.model if newest and newest.served else no_encoder(wanted)

    def _serving(self, wanted: EncoderReference, model: Model) -> Servable:
        """Whoever serves this very model.

        Raises:
            EncoderMissing: it has been taken out meanwhile.
        """
        for entry in self._entries.values():
            if entry.served and entry.served.model is model:
                return entry.served
        no_encoder(wanted)
        raise AssertionError

    def _stale_heads(self) -> list[Entry]:
        """Heads that hold encoders which have been replaced or taken out, or that wait for one."""
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

    def policy(self, name: str) -> Policy:
        """What is wanted of a model."""
        return self._policies.get(name, PLAIN)


def check_uses(uses: Iterable[str]) -> None:
    """Raises:
    BadRequest: one of these is not something that a model can be asked for.
    """
    if unknown := sorted(set(uses) - set(USES)):
        raise BadRequest(f"{unknown[0]} is not a use; uses are: {', '.join(USES)}", "defaults")


def can_do(model: Model, use: str) -> bool:
    """Whether a model is made for that, such as `image/classify`."""
    return any(_can(model, kind, task) for kind, task in _USES if _use(kind, task) == use)


def _use(kind: Kind, task: str | None) -> str:
    return f"{kind}/{task or 'preview'}"


def _entry(folder: Folder) -> Entry:
    """A folder, before it is loaded."""
    where = folder.name if folder.version == NO_VERSION else f"{folder.name}/{folder.version}"
    fault = folder.fault or (None if folder.whole else f"holds no file {MANIFEST}; {PACKAGE}")
    reason = fault and f"{where}: {fault}"
    return Entry(*folder.key, "failed" if reason else "loading", reason, seen=folder.seen)


def _is_encoder(model: Model, wanted: EncoderReference) -> bool:
    manifest = model.manifest
    embed = model.tasks.get("embed")
    return (
        manifest.name == wanted.name
        and manifest.origin.sha256 == wanted.sha256
        and embed is not None
        and embed.width == wanted.width
    )


def _can(model: Model, kind: Kind, task: str | None) -> bool:
    able = task in model.tasks if task else not model.encoders
    return model.manifest.kind == kind and able


def _order(entry: Entry) -> tuple[str, int]:
    return entry.name, int(entry.version) if VERSION.fullmatch(entry.version) else -1
