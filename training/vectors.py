"""Vectors: computed once by the serving path, and cached on disk by content."""

import asyncio
import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from service.control.repository import Repository
from service.errors import CallerError, NotFound
from service.inference.pipeline import Pipeline
from service.inference.servable import Servable
from service.model.model import Model
from service.model.preprocessing.image import ImagePreprocessing
from service.model.preprocessing.text import TextPreprocessing
from service.model.preprocessing.vector import EncoderReference
from service.model.specs import Modality
from service.model.tasks.task import Floats
from service.model.types import Sample
from service.regular import sha256
from service.settings import Precision, Settings
from training.errors import TrainingError
from training.layouts import Item

IN_FLIGHT = 8  # batches of items, so that a lane finds items of similar length
SECONDS = 600.0  # maximum for one item; no client waits


class EncoderUnavailable(TrainingError):
    """The encoder is missing, does not serve, or does not read this modality."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The vectors of a list of items."""

    encoder: Model
    reference: EncoderReference
    # Place in the list -> float32[width]. Not for repr: asyncio.run asks for it, in vain, and
    # millions of numbers in words take minutes.
    vectors: Mapping[int, Floats] = field(repr=False)
    unreadable: tuple[str, ...]  # one sentence per item without a vector
    computed: int  # in this run; the others were cached


def encode(
    items: Sequence[Item],
    models: Path,
    encoder: str,
    modality: Modality,
    cache: Path,
    *,
    mirrored: bool = False,
) -> Encoded:
    """The vectors of the items, through the service's own repository and pipeline.

    Args:
        cache: the folder where vectors are kept; whatever an interrupted run has computed is kept.
        mirrored: images are mirrored first.

    Raises:
        EncoderUnavailable: `encoder` is not among `models`, or does not serve.
    """
    return asyncio.run(_encode(items, models, encoder, modality, cache, mirrored))


async def _encode(
    items: Sequence[Item],
    models: Path,
    encoder: str,
    modality: Modality,
    cache: Path,
    mirrored: bool,
) -> Encoded:
    # Heads always learn from the vectors of the reference graphs.
    settings = Settings(models=models, precision=Precision.AUTO)
    repository = Repository(settings)
    pipeline = Pipeline(settings.decoders)
    await repository.open()
    try:
        served = _choose(repository, encoder, modality)
        kept = KeptVectors(cache, served.model)
        before = len(kept)
        try:
            vectors, unreadable = await _compute(items, served, pipeline, kept, mirrored)
        finally:
            if len(kept) > before:
                kept.write()
    finally:
        await repository.close()
        pipeline.close()
    reference = _refer(served.model, modality)
    return Encoded(served.model, reference, vectors, tuple(unreadable), len(kept) - before)


def _choose(repository: Repository, name: str, modality: Modality) -> Servable:
    try:
        entry = repository.find(name)
    except NotFound as error:
        raise EncoderUnavailable(f"{error}; `python -m training import` adds encoders") from error
    if entry.served is None:
        raise EncoderUnavailable(f"{name} does not serve: {entry.reason}")
    manifest = entry.served.model.manifest
    if manifest.kind != modality or "embed" not in manifest.tasks or entry.served.encoders:
        raise EncoderUnavailable(f"{name} gives no vectors of {modality}")
    if manifest.origin.sha256 is None:
        raise EncoderUnavailable(f"{name} does not say which weights it has: origin.sha256")
    return entry.served


def _refer(model: Model, modality: Modality) -> EncoderReference:
    manifest = model.manifest
    assert manifest.origin.sha256 is not None
    return EncoderReference(
        name=manifest.name,
        modality=modality,
        width=model.tasks["embed"].width,
        sha256=manifest.origin.sha256,
    )


async def _compute(
    items: Sequence[Item],
    served: Servable,
    pipeline: Pipeline,
    kept: "KeptVectors",
    mirrored: bool,
) -> tuple[dict[int, Floats], list[str]]:
    vectors: dict[int, Floats] = {}
    unreadable: dict[int, str] = {}
    mark = b"mirrored" if mirrored else b""
    waiting = iter(enumerate(items))

    async def work() -> None:
        for number, item in waiting:
            try:
                payload = item.read()
                key = hashlib.sha256(payload + mark).digest()
                if key not in kept:
                    kept[key] = await _embed(payload, served, pipeline, mirrored)
                vectors[number] = kept[key]
            except (CallerError, OSError) as error:
                unreadable[number] = f"{item.name}: {error}"
            bar.update()

    workers = IN_FLIGHT * served.model.manifest.batching.max_batch
    with tqdm(total=len(items), desc="vectors", unit=" items", leave=False, disable=None) as bar:
        await asyncio.gather(*(work() for _ in range(workers)))
    return vectors, [unreadable[number] for number in sorted(unreadable)]


async def _embed(payload: bytes, served: Servable, pipeline: Pipeline, mirrored: bool) -> Floats:
    deadline = asyncio.get_running_loop().time() + SECONDS
    if not mirrored:
        [result] = await pipeline.predict([(served, "embed")], {served.modality: payload}, deadline)
        vector: Floats = result.answer
        return vector
    sample = await pipeline.decode(served.model.decode, payload, deadline)
    spec = served.model.manifest.preprocessing
    assert isinstance(spec, ImagePreprocessing)
    across = 1 if spec.layout == "NHWC" else 2
    behind = Sample(np.ascontiguousarray(np.flip(sample.data, across)))
    mirrored_vector: Floats = (
        await pipeline.predict_sample(served, "embed", behind, deadline)
    ).answer
    return mirrored_vector


class KeptVectors(dict[bytes, Floats]):
    """SHA-256 of a file's content -> its vector, of one encoder with one preprocessing."""

    def __init__(self, folder: Path, encoder: Model) -> None:
        """Read the cache of earlier runs; a damaged file is ignored."""
        self._path = folder / f"{encoder.manifest.name}-{_fingerprint(encoder)[:16]}.npz"
        super().__init__(self._read())

    def write(self) -> None:
        """Write all vectors atomically, merged with those of concurrent runs."""
        everything = {**dict(self._read()), **self}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{os.getpid()}.{self._path.name}")
        with partial.open("wb") as file:
            np.savez(
                file,
                keys=np.frombuffer(b"".join(everything), np.uint8).reshape(-1, 32),
                vectors=np.stack(list(everything.values())),
            )
        partial.rename(self._path)

    def _read(self) -> Iterator[tuple[bytes, Floats]]:
        try:
            with np.load(self._path) as content:
                keys, vectors = content["keys"], content["vectors"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return
        yield from zip((key.tobytes() for key in keys), vectors, strict=True)


def _fingerprint(encoder: Model) -> str:
    """A hash of weights, graph and preprocessing, on which the vectors depend."""
    manifest = encoder.manifest
    spec = manifest.preprocessing
    parts = [str(manifest.origin.sha256), encoder.graph.sha256, spec.model_dump_json()]
    if isinstance(spec, TextPreprocessing):
        parts.append(sha256(encoder.folder / spec.tokenizer))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
