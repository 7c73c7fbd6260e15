"""A loaded model: a folder that was verified, warmed, and answers its own example as it must."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from service.errors import BadModel, CallerError, EncoderMissing
from service.model.manifest import Graph, Manifest, read_manifest
from service.model.preprocessing import build_preprocessor
from service.model.preprocessing.preprocessor import Preprocessor, stack_tensors
from service.model.preprocessing.vector import EncoderReference, VectorPreprocessor
from service.model.speed import UNMEASURED, Speed, measure
from service.model.tasks import TASKS
from service.model.tasks.task import Floats, Task
from service.model.types import File, Item, Result, Row, Sample, TensorSample, Timings
from service.model.verification import check_example, check_tensors
from service.regular import read_regular
from service.runtime.graphs import check_graph, read_graph
from service.runtime.session import Session, choose_provider
from service.runtime.tensors import Array, TensorSpec
from service.settings import Precision, Provider, Settings

logger = logging.getLogger(__name__)

EXAMPLE_BYTES = 2**26


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model: decodes, runs, and its tasks interpret. Thread-safe."""

    folder: Path
    manifest: Manifest
    graph: Graph
    provider: Provider
    preprocessor: Preprocessor
    session: Session
    outputs: tuple[str, ...]  # of the graph, those that the tasks read
    tasks: Mapping[str, Task]
    encoders: "tuple[Model, ...]" = ()  # whose vectors a head takes
    example: Sample | None = None  # that it has answered as it must
    speed: Speed = UNMEASURED

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the task that has some; else empty."""
        return next((task.labels for task in self.tasks.values() if task.labels), ())

    def decode(self, payload: bytes) -> Sample:
        return self.preprocessor.decode(payload)

    def join(self, vectors: Sequence[Floats | None]) -> Sample:
        """A head's sample, of its encoders' vectors; None for one that had nothing to read."""
        assert isinstance(self.preprocessor, VectorPreprocessor)
        return self.preprocessor.join(vectors)

    def sample(self, payload: bytes) -> Sample:
        """One file as the graph takes it, computed now; of a head, as its first encoder's file."""
        if not self.encoders:
            return self.decode(payload)
        kind = self.encoders[0].manifest.kind
        return self.join(
            [e.embed(payload) if e.manifest.kind == kind else None for e in self.encoders]
        )

    def embed(self, payload: bytes) -> Floats:
        """An encoder's vector of one file, computed now."""
        [answer] = self.answers([self.decode(payload)])
        vector: Floats = answer["embed"]
        return vector

    def run(self, samples: Sequence[Sample], *, exclusive: bool = False) -> list[Row]:
        """One batch through the graph: a row for each sample, in order."""
        return self._run(self.preprocessor.collate(samples), self.outputs, exclusive=exclusive)

    def compute(self, items: Sequence[Item], exclusive: bool = False) -> list[Result | CallerError]:
        """One batch, whose files are decoded first: a result for each item, in order.

        Args:
            exclusive: nothing else is computed now, so that the run may take every core.
        """
        tensors = [item for item in items if isinstance(item, TensorSample)]
        if tensors:  # then all are, and of one shape and one wish
            rows = self._run(stack_tensors(tensors), tensors[0].outputs, exclusive=exclusive)
            return [Result(row) for row in rows]
        read = [self._read(item) for item in items if not isinstance(item, TensorSample)]
        good = [each[0] for each in read if not isinstance(each, CallerError)]
        answers = iter(self.run(good, exclusive=exclusive) if good else ())
        return [
            each
            if isinstance(each, CallerError)
            else Result(next(answers), each[0].truncated, each[0].cost, Timings(decode=each[1]))
            for each in read
        ]

    def split(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[TensorSample]:
        """A caller's tensors, each [N, ...] as the graph takes it, row by row.

        Raises:
            BadRequest, TooLarge: they are of no shape that a sample has.
        """
        cost = self.preprocessor.cost_of(tensors)
        return [
            TensorSample(dict(zip(tensors, row, strict=True)), tuple(outputs), cost)
            for row in zip(*tensors.values(), strict=True)
        ]

    def rowwise_outputs(self) -> dict[str, TensorSpec]:
        """Those outputs of the graph that have a row for each sample: the others mix a batch."""
        batch = next(iter(self.session.inputs.values())).shape[0]
        return {
            name: spec
            for name, spec in self.session.outputs.items()
            if spec.shape and spec.shape[0] == batch
        }

    def _run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str], *, exclusive: bool
    ) -> list[Row]:
        arrays = self.session.run(feeds, outputs, exclusive=exclusive)
        items = len(next(iter(feeds.values())))
        if any(len(array) != items for array in arrays):
            raise ValueError(f"the graph gave {len(arrays[0])} rows for {items} items")
        return [dict(zip(outputs, values, strict=True)) for values in zip(*arrays, strict=True)]

    def _read(self, item: Sample | File) -> tuple[Sample, float] | CallerError:
        """A sample, and the seconds that it took to decode it."""
        if isinstance(item, Sample):
            return item, 0.0
        started = perf_counter()
        try:
            return self.decode(item.payload), perf_counter() - started
        except CallerError as error:
            return error

    def release(self) -> None:
        """Give back the memory that larger batches left reserved, by a run of the example."""
        if self.example:
            feeds = self.preprocessor.collate([self.example])
            self.session.release(feeds, self.outputs)

    def answers(
        self, samples: Sequence[Sample], *, exclusive: bool = False
    ) -> list[dict[str, Any]]:
        """Every task's answer to every sample, computed here and now."""
        rows = self.run(samples, exclusive=exclusive)
        return [{name: task.interpret(row) for name, task in self.tasks.items()} for row in rows]


FindEncoder = Callable[[EncoderReference], Model]


def no_encoder(wanted: EncoderReference) -> Model:
    """Raises:
    EncoderMissing: always.
    """
    raise EncoderMissing(f"preprocessing.encoders: {wanted.name} with those weights is not loaded")


def load(folder: Path, settings: Settings, find_encoder: FindEncoder = no_encoder) -> Model:
    """A model folder, verified, warmed and true to its example.

    Args:
        find_encoder: gives a head the loaded encoders that it names.

    Raises:
        EncoderMissing: a head's encoder is not there.
        BadModel: with a sentence that names the file and the field.
        ProviderMissing: the settings insist on hardware that is not there.
    """
    manifest = read_manifest(folder)
    model = _open(folder, manifest, settings, find_encoder)
    for graph in manifest.graphs:
        if graph != model.graph:
            check_graph(folder / graph.file, graph.sha256, graph.side_hashes)
    check_tensors(model)
    payload = _read_payload(model)
    try:
        example = _read_example(model, payload)
    except CallerError as error:
        raise BadModel(f"{folder / manifest.example.file}: example.file: {error}") from error
    check_example(model, example, payload)
    largest = manifest.batching.max_batch
    speed = measure(lambda items: model.run([example] * items), example.cost, largest)
    checked = replace(model, example=example, speed=speed)
    checked.release()
    return checked


def answer_example(
    folder: Path, manifest: Manifest, find_encoder: FindEncoder = no_encoder
) -> dict[str, Any]:
    """What a model folder answers to its own example: the content of its `example.json`.

    Takes the first graph for the CPU; the folder needs no manifest file yet.
    """
    settings = Settings(provider=Provider.CPU, precision=Precision.AUTO, exclusive_threads=1)
    model = _open(folder, manifest, settings, find_encoder)
    [answer] = model.answers([_read_example(model, _read_payload(model))])
    return {name: model.tasks[name].to_json(values) for name, values in answer.items()}


def _open(folder: Path, manifest: Manifest, settings: Settings, find_encoder: FindEncoder) -> Model:
    encoders = tuple(find_encoder(encoder) for encoder in manifest.encoders)
    provider = choose_provider(settings.provider)
    # A head's run takes microseconds: more threads, and a session for exclusive runs, have no use.
    threads = 1 if encoders else settings.threads_per_lane
    exclusive_threads = 1 if encoders else settings.threads_exclusive
    graph = choose_graph(manifest, provider, settings.precision)
    tasks = {name: TASKS[name](spec, folder) for name, spec in manifest.tasks.items()}
    return Model(
        folder=folder,
        manifest=manifest,
        graph=graph,
        provider=provider,
        preprocessor=build_preprocessor(manifest.preprocessing, folder, settings.input_limits),
        session=Session(
            read_graph(folder / graph.file, graph.sha256, graph.side_hashes),
            provider,
            threads,
            exclusive_threads,
            settings.exclusive_cores,
            arena=not encoders,
        ),
        outputs=tuple(sorted({task.output for task in tasks.values()})),
        tasks=tasks,
        encoders=encoders,
    )


def choose_graph(manifest: Manifest, provider: Provider, wanted: Precision) -> Graph:
    """The first graph of the precision, else the first; one for the CPU runs everywhere."""
    devices = ("cpu",) if provider is Provider.CPU else ("cuda", "cpu")
    graphs = [graph for device in devices for graph in manifest.graphs if graph.device == device]
    if not graphs:
        raise BadModel(f"{manifest.name}: graphs: none of them is for the {devices[0]}")
    for graph in graphs:
        if wanted in (Precision.AUTO, graph.precision):
            return graph
    logger.info("%s has no graph in %s: %s serves", manifest.name, wanted, graphs[0].file)
    return graphs[0]


def _read_payload(model: Model) -> bytes:
    return read_regular(model.folder / model.manifest.example.file, EXAMPLE_BYTES)


def _read_example(model: Model, payload: bytes) -> Sample:
    """The example as the graph takes it; a head's by the graphs of its encoders that stand first.

    Its answer was computed so. What another precision changes of it is no fault of the head.
    """
    encoders = tuple(_reference(encoder) for encoder in model.encoders)
    return replace(model, encoders=encoders).sample(payload)


def _reference(encoder: Model) -> Model:
    """The encoder by its first graph for the CPU."""
    graph = choose_graph(encoder.manifest, Provider.CPU, Precision.AUTO)
    if graph == encoder.graph:
        return encoder
    file = read_graph(encoder.folder / graph.file, graph.sha256, graph.side_hashes)
    session = Session(file, Provider.CPU, threads=1)
    return replace(encoder, graph=graph, provider=Provider.CPU, session=session)
