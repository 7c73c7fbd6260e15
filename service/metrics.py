"""Every series that Sensorium exports, with its help text, in one table."""

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

# Where workers share their series, each value asks at each change in which process it is, in case
# it was forked. A worker is a process of its own from the start.
PID = os.getpid()
if values.ValueClass is not values.MutexValue:
    values.ValueClass = values.MultiProcessValue(lambda: PID)  # type: ignore[no-untyped-call]

disable_created_metrics()  # type: ignore[no-untyped-call]  # of each series when it began

CONTENT_TYPE = CONTENT_TYPE_LATEST
MODEL = ("model", "version")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ITEMS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
COSTS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0)
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)

STAGES = ("decode", "queue", "infer", "interpret", "total", "failed")
STAGE = Histogram(
    "sensorium_stage_seconds",
    "Time one item spent in a stage: decode, queue, infer, interpret; total is the whole way,"
    " failed the whole way of one that ended without an answer.",
    (*MODEL, "stage"),
    buckets=SECONDS,
)
BATCH_ITEMS = Histogram("sensorium_batch_items", "Items in a batch.", MODEL, buckets=ITEMS)
BATCH_COST = Histogram(
    "sensorium_batch_cost", "Cost of a batch: items times the costliest.", MODEL, buckets=COSTS
)
BATCH_PADDING = Histogram(
    "sensorium_batch_padding_ratio",
    "Share of a batch's cost that is padding.",
    MODEL,
    buckets=SHARES,
)
BATCHES = Counter(
    "sensorium_batches",
    "Batches by why they hold no more: full, shared (lanes were idle), cost, time, unlike (the rest"
    " differs too much in length), idle (all that waited).",
    (*MODEL, "reason"),
)
RUN = Summary(
    "sensorium_run_seconds",
    "Time in which the graph computed a batch, by its items.",
    (*MODEL, "items"),
)
LAST_RUN = Gauge(
    "sensorium_last_run_timestamp_seconds",
    "When the graph last ran, in seconds since 1970.",
    MODEL,
    multiprocess_mode="max",
)
BATCH_FAILURES = Counter(
    "sensorium_batch_failures", "Runs of a batch that failed and were retried by halves.", MODEL
)
ITEMS_DONE = Counter(
    "sensorium_items", "Items by outcome: ok, or the code of their problem.", (*MODEL, "outcome")
)
SHADOWED = Counter(
    "sensorium_shadow_items",
    "Copies of items that a shadow got: agree, differ, failed, or skipped because it was busy.",
    (*MODEL, "outcome"),
)
CACHE_LOOKUP = Summary(
    "sensorium_cache_lookup_seconds",
    "Time to look for a file in the cache, by what came of it: hit, miss.",
    (*MODEL, "outcome"),
)
REQUESTS = Counter(
    "sensorium_requests",
    "Requests by route, method and status. Without a route it is other; without a response its"
    " status is 0.",
    ("route", "method", "status"),
)
REQUEST = Histogram(
    "sensorium_request_seconds",
    "Time from a request's headers to the end of its response, by route.",
    ("route",),
    buckets=SECONDS,
)
REFUSED = Counter(
    "sensorium_rejections", "Requests that were answered with a problem, by its code.", ("code",)
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
    "sensorium_in_flight_items", "Items in batches that run.", MODEL, multiprocess_mode="livesum"
)
BACKLOG = Gauge(
    "sensorium_backlog_seconds",
    "Seconds that a request which comes now should wait.",
    MODEL,
    multiprocess_mode="livemax",
)
STATE = Gauge(
    "sensorium_model_state",
    "Workers in which the model is in this state: loading, ready, failed.",
    (*MODEL, "state"),
    multiprocess_mode="livesum",
)
PROVIDER_MISSING = Gauge(
    "sensorium_provider_missing",
    "1 where the execution provider that was asked for is not to be had.",
    ("provider",),
    multiprocess_mode="livemax",
)
BUILD = Gauge(
    "sensorium_build_info",
    "1, with the versions that are running.",
    ("version", "bentoml", "onnxruntime", "provider"),
    multiprocess_mode="livemax",
)


_forgotten: set[tuple[str, str]] = set()  # models whose series are not shown any more


def forget_model(name: str, version: str) -> None:
    """Show no series of a model that is gone; where workers share series, none can be removed."""
    _forgotten.add((name, version))


requests_of = cache(REQUESTS.labels)  # route, method, status
request_seconds_of = cache(REQUEST.labels)  # route


class ModelSeries:
    """The series of one model, its labels bound once."""

    def __init__(self, model: str, version: int) -> None:
        self.name = f"{model} version {version}"
        labels = (model, str(version))
        _forgotten.discard(labels)
        self._labels = labels
        self._stages = {stage: STAGE.labels(*labels, stage) for stage in STAGES}
        self._batches = cache(lambda reason: BATCHES.labels(*labels, reason))
        self._runs = cache(lambda items: RUN.labels(*labels, str(items)))
        self._lookups = cache(lambda outcome: CACHE_LOOKUP.labels(*labels, outcome))
        self._items_done = cache(lambda outcome: ITEMS_DONE.labels(*labels, outcome))
        self._batch_items = BATCH_ITEMS.labels(*labels)
        self._batch_cost = BATCH_COST.labels(*labels)
        self._batch_padding = BATCH_PADDING.labels(*labels)
        self._last_run = LAST_RUN.labels(*labels)
        self._backlog = BACKLOG.labels(*labels)
        self._waiting = WAITING.labels(*labels)
        self._running = RUNNING.labels(*labels)

    def stage(self, stage: str, seconds: float) -> None:
        self._stages[stage].observe(seconds)

    def released(self, reason: str, costs: Sequence[int]) -> None:
        """A batch left the queue, for this reason; its items' costs."""
        cost = len(costs) * max(costs)
        self._batches(reason).inc()
        self._batch_items.observe(len(costs))
        self._batch_cost.observe(cost)
        self._batch_padding.observe(1 - sum(costs) / cost)

    def ran(self, items: int, seconds: float) -> None:
        """The graph has computed a batch of so many items."""
        self._runs(items).observe(seconds)
        self._last_run.set(time.time())

    def batch_failed(self) -> None:
        BATCH_FAILURES.labels(*self._labels).inc()

    def dropped(self, reason: str) -> None:
        DROPPED.labels(*self._labels, reason).inc()

    def load(self, waiting: int, running: int) -> None:
        self._waiting.set(waiting)
        self._running.set(running)

    def backlog(self, seconds: float) -> None:
        self._backlog.set(seconds)

    def done(self, outcome: str) -> None:
        self._items_done(outcome).inc()

    def shadowed(self, outcome: str) -> None:
        SHADOWED.labels(*self._labels, outcome).inc()

    def looked_up(self, outcome: str, seconds: float) -> None:
        """A file was looked for in the cache."""
        self._lookups(outcome).observe(seconds)

    def state(self, states: Collection[str]) -> None:
        """None of them where it is unloaded; two where it serves and its successor failed."""
        for known in ("loading", "ready", "failed"):
            STATE.labels(*self._labels, known).set(float(known in states))


def use_one_process() -> None:
    """The only worker keeps its series in memory, where others need not find them.

    To be called before there is a series. Short texts get a hundredth more answers so.
    """
    values.ValueClass = values.MutexValue


def render() -> bytes:
    """All series in Prometheus' text format, summed over the workers where there are several."""
    return generate_latest(_Shown(_registry()))


def samples() -> Iterator[Sample]:
    """Every value of every series, as `render` shows it."""
    return (sample for family in _Shown(_registry()).collect() for sample in family.samples)


class _Shown:
    """A registry without the series of models that are gone."""

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
    _forget_the_dead(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    registry = CollectorRegistry()
    _Workers(registry)  # type: ignore[no-untyped-call]
    return registry


class _Workers(multiprocess.MultiProcessCollector):
    """All workers' files; one that is being created, or was never written to, is empty."""

    def collect(self) -> Iterable[Metric]:
        files = [str(file) for file in Path(self._path).glob("*.db") if _size(file)]
        merged: Iterable[Metric] = self.merge(files)  # type: ignore[no-untyped-call]
        return merged


def _size(file: Path) -> int:
    """Bytes; none of a file that another worker has just removed."""
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0


def _forget_the_dead(folder: Path) -> None:
    """Remove the gauges of workers that were killed, which cannot. Other workers do it as well."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if _is_dead(pid):
            file.unlink(missing_ok=True)


def _is_dead(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):  # not ours
        pass
    return False
