"""Answers to labelled items, by a model folder on the serving path or by a running service."""

import asyncio
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.control.repository import Repository
from service.errors import CallerError
from service.inference.pipeline import Pipeline
from service.model.preprocessing import MODALITIES
from service.model.specs import Modality
from service.model.tasks.task import Floats
from service.settings import Settings
from training.errors import TrainingError
from training.layouts import Item, find_items

TESTS = ("test", "test.csv", "test.jsonl")
SECONDS = 600.0  # maximum for one item; no client waits
CONNECTIONS = 8
ALL_LABELS = 10_000  # the maximum of the service
CANNOT_BE_READ = (400, 413, 422)  # statuses caused by the item
# Local models are queried directly, without the proxies of the environment.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class CannotAnswer(TrainingError):
    """The model is missing, does not serve or classify, or has none of the labels."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that classifies files of one modality."""

    name: str
    version: str
    modality: Modality
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers of a subject to a list of items."""

    subject: Subject
    probabilities: Mapping[int, Floats]  # place in the list -> float32[classes]
    skipped: tuple[str, ...]  # one sentence per unreadable item
    seconds: float
    concurrency: int  # items in flight

    @property
    def throughput(self) -> float:
        """Items per second, from disk to answer."""
        return len(self.probabilities) / self.seconds


@dataclass(frozen=True, slots=True)
class Scored:
    """The items to score by."""

    items: tuple[Item, ...]
    source: str  # their place, for messages
    skipped: tuple[str, ...]


class FolderModels:
    """The models of a folder, loaded as the service loads them."""

    def __init__(self, repository: Repository, pipeline: Pipeline) -> None:
        self._repository = repository
        self._pipeline = pipeline

    @classmethod
    @asynccontextmanager
    async def open(cls, models: Path) -> "AsyncIterator[FolderModels]":
        """Raises:
        OperatorError: there is no such folder.
        """
        settings = Settings(models=models)
        repository = Repository(settings)
        pipeline = Pipeline(settings.decoders)
        await repository.open()
        try:
            yield cls(repository, pipeline)
        finally:
            await repository.close()
            pipeline.close()

    def find(self, reference: str) -> Subject:
        """`name` or `name:version`.

        Raises:
            NotFound: there is no such model.
            CannotAnswer: it does not serve, or does not classify files of one modality.
        """
        name, _, version = reference.partition(":")
        entry = self._repository.find(name, version or None)
        if entry.served is None:
            raise CannotAnswer(f"{name} version {entry.version} does not serve: {entry.reason}")
        model = entry.served.model
        kind = model.manifest.kind
        if not model.labels or kind == "multimodal":
            raise CannotAnswer(f"{name} version {entry.version} does not classify single files")
        return Subject(name, entry.version, kind, model.labels)

    async def ask(self, subject: Subject, items: Sequence[Item]) -> Answered:
        """Every item's probabilities, several items in flight."""
        served = self._repository.choose(
            subject.modality, "classify", subject.name, subject.version
        )
        probabilities: dict[int, Floats] = {}
        skipped: dict[int, str] = {}
        loop = asyncio.get_running_loop()
        waiting = iter(enumerate(items))

        async def work() -> None:
            for number, item in waiting:
                try:
                    part = {subject.modality: item.read()}
                    deadline = loop.time() + SECONDS
                    [result] = await self._pipeline.predict([(served, "classify")], part, deadline)
                    probabilities[number] = result.answer
                except (CallerError, OSError) as error:
                    skipped[number] = f"{item.name}: {error}"

        concurrency = min(len(items), 2 * served.model.manifest.batching.max_batch)
        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        seconds = time.perf_counter() - started
        return Answered(subject, probabilities, _in_order(skipped), seconds, concurrency)


class ServiceModels:
    """The models of a running service."""

    def __init__(self, url: str) -> None:
        """Raises:
        CannotAnswer: it is not an HTTP address.
        """
        if not url.startswith(("http://", "https://")):
            raise CannotAnswer(f"--url: {url} does not begin with http:// or https://")
        self._url = url.rstrip("/")

    def find(self, reference: str) -> Subject:
        """`name` or `name:version`.

        Raises:
            CannotAnswer: the service is not there, has no such model, or it does not classify.
        """
        name, _, version = reference.partition(":")
        query = f"?version={urllib.parse.quote(version)}" if version else ""
        card = self._call(f"/v1/models/{urllib.parse.quote(name, safe='')}{query}")
        if card["state"] != "ready":
            raise CannotAnswer(f"{name} does not serve: {card.get('reason') or card['state']}")
        modality = card["manifest"]["preprocessing"]["modality"]
        if modality == "vector":  # a head reads what its encoders read
            encoders = card["manifest"]["preprocessing"]["encoders"]
            modality = encoders[0]["modality"] if len(encoders) == 1 else "multimodal"
        if "labels" not in card or modality not in MODALITIES:
            raise CannotAnswer(f"{name} version {card['version']} does not classify single files")
        return Subject(name, card["version"], modality, tuple(card["labels"]))

    def ask(self, subject: Subject, items: Sequence[Item]) -> Answered:
        """Every item's probabilities, one item a request, several requests at a time.

        Raises:
            CannotAnswer: the service does not respond, or is overloaded.
        """
        probabilities: dict[int, Floats] = {}
        skipped: dict[int, str] = {}
        query = {"model": subject.name, "version": subject.version, "top_k": ALL_LABELS}
        path = f"/v1/{subject.modality}/classify?{urllib.parse.urlencode(query)}"
        places = {label: subject.labels.index(label) for label in subject.labels}

        def ask_one(number: int) -> None:
            try:
                answer = self._call(path, items[number].read())
            except (CallerError, OSError) as error:
                skipped[number] = f"{items[number].name}: {error}"
                return
            values = np.zeros(len(subject.labels), np.float32)
            for found in answer["results"][0]["labels"]:
                values[places[found["label"]]] += found["score"]
            probabilities[number] = values

        concurrency = min(len(items), CONNECTIONS)
        started = time.perf_counter()
        with ThreadPoolExecutor(concurrency) as pool:
            for _ in pool.map(ask_one, range(len(items))):
                pass
        seconds = time.perf_counter() - started
        return Answered(subject, probabilities, _in_order(skipped), seconds, concurrency)

    def _call(self, path: str, body: bytes | None = None) -> Any:
        """The JSON response.

        Raises:
            CallerError: the service cannot read the body.
            CannotAnswer: any other failure.
        """
        headers = {"Content-Type": "application/octet-stream"} if body is not None else {}
        request = urllib.request.Request(self._url + path, body, headers)
        try:
            with DIRECT.open(request, timeout=SECONDS) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                detail = _detail(error.read())
            if body is not None and error.code in CANNOT_BE_READ:
                raise CallerError(detail) from error
            raise CannotAnswer(f"{self._url} answers {error.code}: {detail}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CannotAnswer(f"{self._url} does not answer: {error}") from error


def find_scored(data: Path, modality: Modality) -> Scored:
    """The test split if there is one, else the validation split, else everything.

    Raises:
        BadData: there is no labelled data.
    """
    for test in (data / name for name in TESTS):
        if test.is_file() or (test.is_dir() and any(path.is_dir() for path in test.iterdir())):
            found = find_items(test, modality)
            return Scored(found.splits["train"], str(test), found.skipped)
    found = find_items(data, modality)
    if valid := found.splits["valid"]:
        return Scored(valid, f"{data}, validation split", found.skipped)
    return Scored(found.splits["train"], f"{data}, all of it: it has no test split", found.skipped)


def keep_known(scored: Scored, subject: Subject) -> Scored:
    """Without the items whose label the model does not have.

    Raises:
        CannotAnswer: none is left.
    """
    unknown = sorted({item.label for item in scored.items} - set(subject.labels))
    items = tuple(item for item in scored.items if item.label in subject.labels)
    if not items:
        raise CannotAnswer(
            f"{subject.name} has none of the labels of {scored.source} ({', '.join(unknown[:5])});"
            f" it has {', '.join(subject.labels[:5])}"
        )
    lost = tuple(f"label {label} is not among those of {subject.name}" for label in unknown)
    return Scored(items, scored.source, (*scored.skipped, *lost))


def _detail(body: bytes) -> str:
    """The sentence of a problem document."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace") or "nothing"


def _in_order(skipped: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(skipped[number] for number in sorted(skipped))
