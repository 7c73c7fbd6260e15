"""Predict: files in, answers out, at `/v1/{kind}/{task}` for every modality and every task."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import product
from time import perf_counter
from typing import Annotated, Any, NamedTuple, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from service.api import examples
from service.api.context import AppContext, Context
from service.api.dispatch import ROUTES, FileRoute
from service.api.outcomes import count_failure
from service.api.problems import RESPONSES, describe
from service.api.request.disconnect import while_there
from service.api.request.payloads import Given, Items, read_items
from service.api.request.strict import Strict
from service.api.responses import (
    MAX_LABELS,
    Answer,
    Answers,
    ItemResult,
    deadline_of,
    respond,
)
from service.control.routing import VersionName
from service.errors import SensoriumError, TooLarge
from service.inference.admission import Admission, check, enter
from service.inference.pipeline import gather
from service.inference.servable import Servable
from service.model.preprocessing import MODALITIES
from service.model.specs import MULTIMODAL, Kind
from service.model.tasks import TASKS
from service.model.tasks.task import Task
from service.model.types import Result

router = APIRouter(tags=["files"], responses=RESPONSES)

VERSION = (
    "Its number, or an alias. Without one, the model's routing decides: by default the latest."
)


class ModelQuery(Strict):
    """Which model; without one, the default for this task."""

    model: str | None = None
    version: VersionName | None = Field(None, description=VERSION)


class ModelsQuery(Strict):
    """Which model, or models: several give `{"answers": [...]}`."""

    model: list[str] = Field([], max_length=32, description="Repeat it to ask several models.")
    version: VersionName | None = Field(None, description=VERSION)


Q = TypeVar("Q", bound=ModelsQuery)


def query_of(task: type[Task]) -> type[ModelsQuery]:
    """The query of a task's routes: which models, and the task's own options."""
    return type(f"{task.name.capitalize()}Query", (task.options_type, ModelsQuery), {})


def choose(
    request: Request,
    context: AppContext,
    kind: Kind,
    task: str | None,
    name: str | None,
    version: str | None,
) -> Servable:
    """The model for a request, in the version that it names, or that its id draws."""
    state = request.scope["state"]
    served = context.repository.choose(kind, task, name, version, state["request_id"])
    state.setdefault("manifests", []).append(served.model.manifest)  # for its log
    return served


def add_route(
    kind: Kind,
    task: type[Task],
    query: type[Q],
    predict: Callable[[Request, AppContext, Q], Awaitable[Response]],
) -> None:
    """Add `/v1/{kind}/{task}`: FastAPI describes the route and `Dispatch` calls it."""
    path = f"/v1/{kind}/{task.name}"
    verbs = ("POST",) if kind == MULTIMODAL else ("POST", "PUT")  # PUT is what `curl -T` sends

    async def endpoint(
        request: Request,
        context: Context,
        query: Annotated[query, Query()],  # type: ignore[valid-type]
    ) -> Response:
        return await predict(request, context, query)

    files = MODALITIES[kind].plural if kind in MODALITIES else "several files together"
    endpoint.__doc__ = task.summary.format(files=files)
    ROUTES[path] = FileRoute(predict, query, verbs)
    for verb in verbs:
        router.add_api_route(
            path,
            endpoint,
            methods=[verb],
            operation_id=f"{task.name}_{kind}_{verb.lower()}",
            summary=f"{task.name.capitalize()} {files}",
            response_model=Answer | Answers,
            openapi_extra=examples.request(kind),
            responses=examples.response(examples.answer("a-model", **task.example)),
        )


def predictor(
    kind: Kind, task: type[Task]
) -> Callable[[Request, AppContext, ModelsQuery], Awaitable[Response]]:
    """The endpoint of a route whose answers are those of the task."""

    async def predict(request: Request, context: AppContext, query: ModelsQuery) -> Response:
        names: list[str | None] = [*query.model] or [None]
        models = [choose(request, context, kind, task.name, n, query.version) for n in names]
        labels = sum([served.model.tasks[task.name].labels_of(query) for served in models])

        def render(served: Servable, result: Result) -> dict[str, Any]:
            return served.model.tasks[task.name].render(result.answer, query)

        received = await receive(request, context, models, kind)
        return await answer(request, context, models, task.name, render, received, labels)

    return predict


for kind, task in product([*MODALITIES, MULTIMODAL], TASKS.values()):
    if (kind, task.name) != ("text", "classify"):  # `similarity` adds it, with its own labels
        add_route(kind, task, query_of(task), predictor(kind, task))


class Received(NamedTuple):
    """A request's items, their deadline, and the admission of the models that read them."""

    items: Items
    deadline: float
    admissions: list[Admission]


async def receive(
    request: Request, context: AppContext, models: list[Servable], kind: Kind
) -> Received:
    """Read a request.

    Raises:
        CallerError: it has no items that can be used.
        LoadError: they would not be answered in time; the body was not read.
    """
    deadline = deadline_of(request, context.settings.timeout_ms)
    admissions = list({each for served in models for each in served.admissions})
    check(admissions, deadline)
    items = await read_items(request, kind, context.settings, deadline)
    return Received(items, deadline, admissions)


async def answer(
    request: Request,
    context: AppContext,
    models: list[Servable],
    task: str,
    render: Callable[[Servable, Result], dict[str, Any]],
    received: Received,
    labels: int = 0,
) -> Response:
    """Every model's answer to every item.

    Args:
        labels: of one item, of all models.

    Raises:
        TooLarge: the answer would hold too many labels.
        SensoriumError: the only item has no answer.
    """
    items, deadline, admissions = received
    if (asked := len(items.given) * labels) > MAX_LABELS:
        raise TooLarge(
            f"the answer would hold {asked:,} labels; at most {MAX_LABELS:,} are given:"
            " lower top_k, or send less at once"
        )
    window = context.settings.window
    with enter(admissions, min(len(items.given), window), deadline):
        work = _predict_all(context, models, task, items.given, deadline, window)
        outcomes = await while_there(request, admissions, work)
        if len(outcomes) == 1 and isinstance(outcomes[0], SensoriumError):
            raise outcomes[0]
    answers = []
    for number, served in enumerate(models):
        results: list[ItemResult] = []
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, SensoriumError):
                problem = describe(outcome, request.state.request_id)
                item = {"index": index, "status": "error", "error": problem}
            else:
                result = outcome[number]
                item = {"index": index, "status": "ok", **render(served, result)}
                if result.truncated:
                    item["truncated"] = True
            if filename := items.filename(index):
                item["filename"] = filename
            results.append(item)
        manifest = served.model.manifest
        answers.append(Answer(model=manifest.name, version=str(manifest.version), results=results))
    document = answers[0] if len(answers) == 1 else Answers(answers=answers)
    good = [outcome for outcome in outcomes if not isinstance(outcome, SensoriumError)]
    return respond(document, [result for outcome in good for result in outcome])


async def _predict_all(
    context: AppContext,
    models: list[Servable],
    task: str,
    items: Sequence[Given],
    deadline: float,
    window: int,
) -> list[list[Result] | SensoriumError]:
    """Each item's outcome; at most `window` items are submitted at once."""
    outcomes: list[list[Result] | SensoriumError] = []
    for start in range(0, len(items), window):
        several = items[start : start + window]
        outcomes += await gather([_predict(context, models, task, i, deadline) for i in several])
    return outcomes


async def _predict(
    context: AppContext, models: list[Servable], task: str, item: Given, deadline: float
) -> list[Result] | SensoriumError:
    """One item's result from each model, or why there is none; counted by its outcome."""
    started = perf_counter()
    try:
        if isinstance(item, SensoriumError):
            raise item
        results = await context.pipeline.predict([(m, task) for m in models], item, deadline)
    except SensoriumError as error:
        count_failure(models, error, started)
        return error
    for served in models:
        served.series.done("ok")
    return results
