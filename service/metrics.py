"""Metrics: every exported series with its help text, in one table."""

import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    Summary,
    disable_created_metrics,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.samples import Sample

# With several workers, prometheus-client asks for the process id at each change, in case of a fork.
# Workers do not fork, so a constant saves that call.
PID = os.getpid()
if values.ValueClass is not values.MutexValue:
    values.ValueClass = values.MultiProcessValue(lambda: PID)  # type: ignore[no-untyped-call]

disable_created_metrics()  # type: ignore[no-untyped-call]  # one timestamp per series

CONTENT_TYPE = CONTENT_TYPE_LATEST
MODEL = ("model", "version")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ITEMS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
COSTS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)

STAGE = Histogram(
    "sensorium_stage_seconds",
    "Time of one item in a stage: decode, queue, infer, interpret; total is the whole way,"
    " failed the whole way of an item without an answer.",
    (*MODEL, "stage"),
    buckets=SECONDS,
)
BATCH_ITEMS = Histogram("sensorium_batch_items", "Items in a batch.", MODEL, buckets=ITEMS)
BATCH_COST = Histogram(
    "sensorium_batch_cost", "Items of a batch times its highest cost.", MODEL, buckets=COSTS
)
BATCH_PADDING = Histogram(
    "sensorium_batch_padding_ratio",
    "Share of a batch's cost that is padding.",
    MODEL,
    buckets=SHARES,
)
BATCHES = Counter(
    "sensorium_batches",
    "Batches by the reason why they are not larger: full, shared (lanes were idle), cost, time,"
    " unlike (other items differ too much in length), idle (the queue was empty).",
    (*MODEL, "reason"),
)
RUN = Summary(
    "sensorium_run_seconds",
    "Time of one run of the graph, by the number of items in the batch.",
    (*MODEL, "items"),
)
LAST_RUN = Gauge(
    "sensorium_last_run_timestamp_seconds",
    "When the graph last ran, in seconds since 1970.",
    MODEL,
    multiprocess_mode="max",
)
BATCH_FAILURES = Counter(
    "sensorium_batch_failures", "Failed runs of a batch, retried in halves.", MODEL
)
ITEMS_DONE = Counter(
    "sensorium_items", "Items by outcome: ok, or a problem code.", (*MODEL, "outcome")
)
SHADOWED = Counter(
    "sensorium_shadow_items",
    "Items copied to a shadow: agree, differ, failed, or skipped because it was busy.",
    (*MODEL, "outcome"),
)
CACHE_LOOKUP = Summary(
    "sensorium_cache_lookup_seconds",
    "Time of a cache lookup, by its result: hit, miss.",
    (*MODEL, "outcome"),
)
REQUESTS = Counter(
    "sensorium_requests",
    "Requests by route, method and status. An unknown route is other. The status is 0 if the client"
    " disconnected before its response.",
    ("route", "method", "status"),
)
REQUEST = Histogram(
    "sensorium_request_seconds",
    "Time from a request's headers to the end of its response, by route.",
    ("route",),
    buckets=SECONDS,
)
REFUSED = Counter(
    "sensorium_rejections", "Requests answered with a problem, by its code.", ("code",)
)
DROPPED = Counter(
    "sensorium_dropped_items",
    "Items dropped before they ran: expired, cancelled.",
    (*MODEL, "reason"),
)
WAITING = Gauge(
    "sensorium_queue_items", "Items waiting for a batch.", MODEL, multiprocess_mode="livesum"
)
RUNNING = Gauge(
    "sensorium_in_flight_items", "Items in running batches.", MODEL, multiprocess_mode="livesum"
)
BACKLOG = Gauge(
    "sensorium_backlog_seconds",
    "Estimated wait of a request arriving now, in seconds.",
    MODEL,
    multiprocess_mode="livemax",
)
STATES = frozenset(("loading", "ready", "failed"))
MODELS = Gauge(
    "sensorium_models",
    "Models by state, summed over the workers: loading, ready, failed.",
    ("state",),
    multiprocess_mode="livesum",
)
FAILED = Gauge(
    "sensorium_model_failed",
    "Workers that refused the model's folder. A model has this series from its first failure.",
    MODEL,
    multiprocess_mode="livesum",
)
PROVIDER_MISSING = Gauge(
    "sensorium_provider_missing",
    "1 if the requested execution provider is missing.",
    ("provider",),
    multiprocess_mode="livemax",
)
BUILD = Gauge(
    "sensorium_build_info",
    "1, with the running versions as labels.",
    ("version", "bentoml", "onnxruntime", "provider"),
    multiprocess_mode="livemax",
)


_states: dict[tuple[str, str], frozenset[str]] = {}  # of this worker's models
_forgotten: set[tuple[str, str]] = set()  # unloaded models, with hidden series


def show_state(name: str, version: str, states: Collection[str]) -> None:
    """Count a model by its states: none if unloaded, two if it serves and its new folder failed."""
    model = name, version
    before, now = _states.get(model, frozenset()), STATES.intersection(states)
    for state in before - now:
        MODELS.labels(state).dec()
    for state in now - before:
        MODELS.labels(state).inc()
    if "failed" in before | now:
        FAILED.labels(*model).set("failed" in now)
    _states[model] = now
    _forgotten.discard(model)


def forget_model(name: str, version: str) -> None:
    """Hide the series of an unloaded model. With several workers, a series cannot be removed."""
    show_state(name, version, ())
    del _states[name, version]
    _forgotten.add((name, version))


requests_of = cache(REQUESTS.labels)  # route, method, status
request_seconds_of = cache(REQUEST.labels)  # route


class ModelSeries:
    """The series of one model, each created at its first use: an idle model has none."""

    def __init__(self, model: str, version: int) -> None:
        self.name = f"{model} version {version}"
        labels = (model, str(version))
        self._of = cache(lambda metric, *others: metric.labels(*labels, *others))

    def stages(self, **seconds: float) -> None:
        """Record how long an item spent in these stages."""
        for stage, value in seconds.items():
            self._of(STAGE, stage).observe(value)

    def released(self, reason: str, costs: Sequence[int]) -> None:
        """Record a batch that left the queue: why it is not larger, and the costs of its items."""
        cost = len(costs) * max(costs)
        self._of(BATCHES, reason).inc()
        self._of(BATCH_ITEMS).observe(len(costs))
        self._of(BATCH_COST).observe(cost)
        self._of(BATCH_PADDING).observe(1 - sum(costs) / cost)

    def ran(self, items: int, seconds: float) -> None:
        """Record one run of the graph."""
        self._of(RUN, items).observe(seconds)
        self._of(LAST_RUN).set(time.time())

    def batch_failed(self) -> None:
        self._of(BATCH_FAILURES).inc()

    def dropped(self, reason: str) -> None:
        self._of(DROPPED, reason).inc()

    def load(self, waiting: int, running: int) -> None:
        self._of(WAITING).set(waiting)
        self._of(RUNNING).set(running)

    def backlog(self, seconds: float) -> None:
        self._of(BACKLOG).set(seconds)

    def done(self, outcome: str) -> None:
        self._of(ITEMS_DONE, outcome).inc()

    def shadowed(self, outcome: str) -> None:
        self._of(SHADOWED, outcome).inc()

    def looked_up(self, outcome: str, seconds: float) -> None:
        """Record a cache lookup."""
        self._of(CACHE_LOOKUP, outcome).observe(seconds)


def use_one_process() -> None:
    """Keep series in memory instead of shared files; call it before the first series exists.

    A single worker answers 1% more short texts this way.
    """
    values.ValueClass = values.MutexValue


def render() -> bytes:
    """All series in Prometheus' text format, summed over all workers."""
    return generate_latest(_Shown(_registry()))


def samples() -> Iterator[Sample]:
    """Every value of every series, as `render` shows it."""
    return (sample for family in _Shown(_registry()).collect() for sample in family.samples)


class _Shown:
    """A registry without the series of unloaded models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        gone = set(_forgotten)
        for family in self._registry.collect():
            if gone:
                family.samples = [
                    sample
                    for sample in family.samples
                    if (sample.labels.get("model"), sample.labels.get("version")) not in gone
                ]
            yield family


def _registry() -> CollectorRegistry:
    if values.ValueClass is values.MutexValue:
        return REGISTRY
    _remove_gauges_of_dead_workers(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    registry = CollectorRegistry()
    _Workers(registry)  # type: ignore[no-untyped-call]
    return registry


class _Workers(multiprocess.MultiProcessCollector):
    """The files of all workers. Files that are just being created are empty and skipped."""

    def collect(self) -> Iterable[Metric]:
        files = [str(file) for file in Path(self._path).glob("*.db") if _size_if_present(file)]
        merged: Iterable[Metric] = self.merge(files)  # type: ignore[no-untyped-call]
        return merged


def _size_if_present(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0


def _remove_gauges_of_dead_workers(folder: Path) -> None:
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if _is_dead(pid):
            file.unlink(missing_ok=True)


def _is_dead(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):  # not a worker of this service
        pass
    return False
