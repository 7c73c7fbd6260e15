"""Selection: which version of which model answers a request."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from random import random
from typing import Literal

from service.control.folders import GONE, VERSION, Fingerprint, Key
from service.control.routing import LATEST, NO_DEFAULTS, Policy, Routing, draw
from service.errors import BadRequest, NotFound, NotReady, Unsupported
from service.inference.servable import Servable
from service.model.manifest import MANIFEST
from service.model.model import Model
from service.model.preprocessing import MODALITIES
from service.model.preprocessing.vector import EncoderReference
from service.model.specs import MULTIMODAL, Kind
from service.model.tasks import TASKS

PLAIN = Policy()  # the policy of a model without one
LOADING = "it is loading"
_USES: list[tuple[Kind, str | None]] = [
    *product((*MODALITIES, MULTIMODAL), TASKS),
    *product(MODALITIES, (None,)),
]
USES = tuple(f"{kind}/{task or 'preview'}" for kind, task in _USES)

ModelState = Literal["loading", "ready", "failed", "unloaded"]


@dataclass(frozen=True, slots=True)
class Entry:
    """The state of one folder `models/<name>/<version>`."""

    name: str
    version: str
    state: ModelState
    reason: str | None = None  # why it failed or, if it is ready, why its changed folder failed
    served: Servable | None = None  # if it is ready
    seen: Fingerprint = GONE  # of the folder at its last load or refusal

    @property
    def key(self) -> Key:
        return self.name, self.version

    @property
    def created(self) -> int:
        """The time of its manifest, in seconds since 1970; 0 if unknown."""
        return next((int(time / 1e9) for file, _, time in self.seen if file == MANIFEST), 0)


class Selection:
    """The entries of all models, and the choice among those that serve."""

    def __init__(self, default_models: Mapping[str, str]) -> None:
        """Args:
        default_models: use -> model, from the settings.
        """
        self._default_models = default_models
        self._entries: dict[Key, Entry] = {}
        self._policies: dict[str, Policy] = {}
        self.defaults = NO_DEFAULTS
        # The choices for requests without a version, until something changes
        self._chosen: dict[tuple[Kind, str | None, str | None], Servable] = {}

    def entries(self) -> list[Entry]:
        """All entries, by name and version, the oldest version first."""
        return sorted(self._entries.values(), key=order_of)

    def served(self) -> list[Servable]:
        """The models that accept requests."""
        return [entry.served for entry in self._entries.values() if entry.served]

    def versions(self, name: str) -> list[Entry]:
        """All versions of a model, the oldest first.

        Raises:
            NotFound: no such model.
        """
        found = sorted((e for e in self._entries.values() if e.name == name), key=order_of)
        if not found:
            known = ", ".join(sorted({entry.name for entry in self._entries.values()}))
            raise NotFound(f"there is no model {name}; there are: {known or 'none'}")
        return found

    def find(self, name: str, version: str | None = None, request_id: str = "") -> Entry:
        """The version of a model with this number or alias.

        `latest` is the highest ready version, else the highest. Without a version, the model's
        weights choose a ready one by the request id; without weights, it is the latest.

        Raises:
            NotFound: no such model or version.
        """
        versions = self.versions(name)
        routing = self.policy(name).routing
        if version is None:
            version = self._draw(name, routing, request_id)
        if version == LATEST:
            return max(versions, key=lambda entry: (entry.state == "ready", order_of(entry)))
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
        """The servable of a version, or of the version that `find` chooses.

        Raises:
            NotFound: no such model or version.
            NotReady: it does not serve.
        """
        entry = self.find(name, version, request_id)
        if entry.served is None:
            reason = entry.reason or ("it is unloaded" if entry.state == "unloaded" else LOADING)
            raise NotReady(f"{name} version {entry.version} is not ready: {reason}")
        return entry.served

    def shadow(self, served: Servable) -> Servable | None:
        """The shadow that gets a copy of the current item; None if the item is not sampled."""
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

        Without a task, any model of this modality matches.

        Raises:
            NotFound, NotReady: the model is missing, or does not serve.
            Unsupported: the model does not support this modality or task.
            BadRequest: several models match, and none is named or the default.
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
        """Model -> version -> why its folder was refused."""
        found: dict[str, dict[str, str]] = {}
        for entry in self.entries():
            if entry.reason:
                found.setdefault(entry.name, {})[entry.version] = entry.reason
        return found

    def dependents(self, name: str, versions: Collection[str]) -> list[str]:
        """The heads that need these versions of a model as their encoder."""
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
                if not any(is_encoder(model, wanted) for model in staying)
            }
        )

    def able(self, kind: Kind, task: str | None) -> list[str]:
        """The names of the ready models with this modality and task."""
        return sorted(
            {
                entry.name
                for entry in self._entries.values()
                if entry.served and _can(entry.served.model, kind, task)
            }
        )

    def default(self, kind: Kind, task: str | None) -> str | None:
        """The model of requests that name none: the configured one, else the only one.

        If there are several, it is the one that was once the only one, else the only one that is
        not a head.
        """
        use = _use(kind, task)
        if name := self.defaults.chosen.get(use) or self._default_models.get(use):
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
        """The default model of each use that has one."""
        found = {_use(kind, task): self.default(kind, task) for kind, task in _USES}
        return {use: name for use, name in found.items() if name}

    def note_firsts(self) -> None:
        """Remember each model that is the only choice, so that later ones do not replace it."""
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
                f"several models can {verb} {kind}: set model= to one of {', '.join(names)}, or set"
                f" a default with SENSORIUM_DEFAULT_MODELS={_use(kind, task)}=NAME or"
                " PUT /v2/repository/defaults",
                param="model",
            )
        if any(entry.state == "loading" for entry in self._entries.values()):
            raise NotReady("the models are loading")
        raise NotFound(f"no ready model can {verb} {kind}")

    def policy(self, name: str) -> Policy:
        """The policy of a model."""
        return self._policies.get(name, PLAIN)


def check_uses(uses: Iterable[str]) -> None:
    """Raises:
    BadRequest: a use names an unknown modality or task.
    """
    if unknown := sorted(set(uses) - set(USES)):
        raise BadRequest(f"{unknown[0]} is unknown; known: {', '.join(USES)}", "defaults")


def can_do(model: Model, use: str) -> bool:
    """Whether a model supports a use, such as `image/classify`."""
    return any(_can(model, kind, task) for kind, task in _USES if _use(kind, task) == use)


def _use(kind: Kind, task: str | None) -> str:
    return f"{kind}/{task or 'preview'}"


def is_encoder(model: Model, wanted: EncoderReference) -> bool:
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


def order_of(entry: Entry) -> tuple[str, int]:
    return entry.name, int(entry.version) if VERSION.fullmatch(entry.version) else -1
