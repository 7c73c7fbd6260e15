"""Models: those that the running service has, and the one that each scenario asks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

from loadtests.payloads import Modality

Task = Literal["classify", "embed"]

LIST_SECONDS = 5.0
# What a scenario asks for; the other task where no model has this one.
FIRST_CHOICE: Mapping[Modality, Task] = {"image": "classify", "text": "embed", "audio": "classify"}


class NoModel(Exception):
    """The service cannot be asked which models it has, or has not the one that was named."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is ready, from the service's list."""

    name: str
    modalities: frozenset[str]
    tasks: frozenset[str]
    created: int  # seconds since 1970
    default_for: frozenset[str] = frozenset()  # requests that name no model: image/classify, ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where a scenario sends its requests; without a name, the service chooses the model."""

    modality: Modality
    task: Task
    model: str | None = None

    @property
    def route(self) -> str:
        return f"/v1/{self.modality}/{self.task}"

    @property
    def path(self) -> str:
        return f"{self.route}?model={quote(self.model)}" if self.model else self.route

    def __str__(self) -> str:
        return f"{self.route} by {self.model or 'the model that the service chooses'}"


def list_models(url: str) -> list[Model]:
    """The models of the service at that URL that are ready.

    Raises:
        NoModel: the service does not answer, or with something else.
    """
    address = f"{url.rstrip('/')}/v1/models"
    try:
        with build_opener(ProxyHandler({})).open(address, timeout=LIST_SECONDS) as response:
            cards = json.load(response)["data"]
        return [_read(card) for card in cards if card["state"] == "ready"]
    except (URLError, OSError, ValueError, LookupError, TypeError) as error:
        raise NoModel(f"{address} gives no list of models: {error}") from error


def choose_targets(models: Sequence[Model], named: Iterable[str] = ()) -> dict[Modality, Target]:
    """The model that each modality's scenarios ask, and for what.

    Without names, the service's default is asked, else the oldest of a modality, so that a new
    model does not change what a load test measures. A modality without a model is left to the
    service, which then says why it refuses. With names, these models are asked and no others.

    Raises:
        NoModel: none of that name is ready, or two of them take the same modality.
    """
    if not (names := list(named)):
        oldest = sorted(models, key=lambda model: (model.created, model.name))
        return {modality: _choose(modality, oldest) for modality in FIRST_CHOICE}
    targets: dict[Modality, Target] = {}
    for name in names:
        target = _aim(name, models)
        if (other := targets.setdefault(target.modality, target)) is not target:
            raise NoModel(f"{name} and {other.model} both take {target.modality}; name one of them")
    return targets


def _aim(name: str, models: Sequence[Model]) -> Target:
    found = [model for model in models if model.name == name]
    if not found:
        ready = ", ".join(sorted(model.name for model in models)) or "none"
        raise NoModel(f"there is no model {name} that is ready; ready are: {ready}")
    for modality in FIRST_CHOICE:
        if modality in found[0].modalities:
            return _choose(modality, found)
    raise NoModel(f"{name} takes several modalities at once, which no scenario sends")


def _choose(modality: Modality, models: Sequence[Model]) -> Target:
    first = FIRST_CHOICE[modality]
    other: Task = "embed" if first == "classify" else "classify"
    for task in (first, other):
        able = [m for m in models if modality in m.modalities and task in m.tasks]
        defaults = [model for model in able if f"{modality}/{task}" in model.default_for]
        if able:
            return Target(modality, task, (defaults or able)[0].name)
    return Target(modality, first)


def _read(card: Mapping[str, Any]) -> Model:
    manifest = card["manifest"]
    preprocessing = manifest["preprocessing"]
    # A head takes what its encoders take; one on several modalities takes no single file.
    taken = {one["modality"] for one in preprocessing.get("encoders", [preprocessing])}
    return Model(
        name=card["id"],
        modalities=frozenset(taken if len(taken) == 1 else ()),
        tasks=frozenset(manifest["tasks"]),
        created=card["created"],
        default_for=frozenset(card.get("default_for", ())),
    )
