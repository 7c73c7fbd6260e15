"""Statistics in Triton's format, computed from the series of /metrics.

Both forms of a model share one queue and one graph, so their figures are the same. The unit is the
item: a request of eight items counts as eight. With several workers, the figures are summed.
"""

import asyncio
from collections.abc import Iterable, Mapping

from fastapi import APIRouter
from pydantic import BaseModel

from service import metrics
from service.api.context import Context
from service.api.problems import V2_RESPONSES
from service.api.v2.forms import TENSORS
from service.control.selection import Entry

router = APIRouter(tags=["v2"], responses=V2_RESPONSES)


class Duration(BaseModel):
    count: int = 0
    ns: int = 0  # total time


class InferenceStatistics(BaseModel):
    """Statistics of items: `success` and `fail` for the whole way, the others for its parts.

    All parts count the same items, because clients rely on it: a decoded tensor counts with 0 s of
    decoding, and an item with two answers counts once. Cache hits count only in `success`.
    """

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration  # decoding files
    compute_infer: Duration  # the run time of the whole batch, counted for each of its items
    compute_output: Duration  # turning rows into answers
    cache_hit: Duration  # time of the lookup
    cache_miss: Duration


class BatchStatistics(BaseModel):
    """Statistics of batches of one size. Decoding and interpreting are not done in batches."""

    batch_size: int
    compute_input: Duration = Duration()
    compute_infer: Duration
    compute_output: Duration = Duration()


class ModelStatistics(BaseModel):
    name: str
    version: str
    last_inference: int  # milliseconds since 1970; 0: none yet
    inference_count: int  # computed items
    execution_count: int  # batches
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class Statistics(BaseModel):
    model_stats: list[ModelStatistics]


@router.get("/v2/models/stats")
async def all_statistics(context: Context) -> Statistics:
    """Statistics of all ready models."""
    return await _statistics(
        (entry.name + suffix, entry)
        for entry in context.repository.entries()
        for suffix in ("", TENSORS)
    )


@router.get("/v2/models/{name}/stats")
@router.get("/v2/models/{name}/versions/{version}/stats")
async def statistics(name: str, context: Context, version: str | None = None) -> Statistics:
    """Statistics of all ready versions of a model, or of one version."""
    own = name.removesuffix(TENSORS)
    repository = context.repository
    found = [repository.find(own, version)] if version else repository.versions(own)
    return await _statistics((name, entry) for entry in found)


# (sample, model, version, and stage, items or outcome) -> its value
Values = Mapping[tuple[str, str, str, str], float]


async def _statistics(entries: Iterable[tuple[str, Entry]]) -> Statistics:
    values = await asyncio.to_thread(_values)  # it takes tens of milliseconds
    return Statistics(
        model_stats=[_model(name, entry, values) for name, entry in entries if entry.served]
    )


def _values() -> Values:
    values = {}
    for sample in metrics.samples():
        labels = sample.labels
        if "model" in labels and "le" not in labels:
            part = labels.get("stage") or labels.get("items") or labels.get("outcome", "")
            values[sample.name, labels["model"], labels["version"], part] = sample.value
    return values


def _model(name: str, entry: Entry, values: Values) -> ModelStatistics:
    model = (entry.name, entry.version)

    def duration(series: str, part: str) -> Duration:
        count = values.get((f"{series}_count", *model, part), 0)
        seconds = values.get((f"{series}_sum", *model, part), 0)
        return Duration(count=int(count), ns=round(seconds * 1e9))

    def stage(stage: str) -> Duration:
        return duration("sensorium_stage_seconds", stage)

    computed = stage("infer")

    def of_computed(name: str) -> Duration:
        return Duration(count=computed.count, ns=stage(name).ns)

    sizes = sorted(
        int(part)
        for series, *of, part in values
        if series == "sensorium_run_seconds_count" and tuple(of) == model
    )
    runs = {size: duration("sensorium_run_seconds", str(size)) for size in sizes}
    last = values.get(("sensorium_last_run_timestamp_seconds", *model, ""), 0)
    return ModelStatistics(
        name=name,
        version=entry.version,
        last_inference=round(last * 1000),
        inference_count=sum(size * run.count for size, run in runs.items()),
        execution_count=sum(run.count for run in runs.values()),
        inference_stats=InferenceStatistics(
            success=stage("total"),
            fail=stage("failed"),
            queue=of_computed("queue"),
            compute_input=of_computed("decode"),
            compute_infer=computed,
            compute_output=of_computed("interpret"),
            cache_hit=duration("sensorium_cache_lookup_seconds", "hit"),
            cache_miss=duration("sensorium_cache_lookup_seconds", "miss"),
        ),
        batch_stats=[
            BatchStatistics(batch_size=size, compute_infer=run) for size, run in runs.items()
        ],
    )
