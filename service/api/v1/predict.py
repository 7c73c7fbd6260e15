"""Files in, labels or vectors out: `/v1/{image,text,audio}/{classify,embed}` and similarity."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Annotated, Any, NamedTuple, cast

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from service.api import examples
from service.api.context import AppContext, Context
from service.api.dispatch import ROUTES, Endpoint, FileRoute
from service.api.outcomes import all_or_none, count
from service.api.problems import RESPONSES, describe
from service.api.request.disconnect import while_there
from service.api.request.payloads import Given, Items, encode_text, read_document, read_items
from service.api.request.strict import Strict
from service.api.responses import (
    MAX_LABELS,
    Answer,
    Answers,
    Finding,
    Label,
    Result,
    Similarity,
    deadline_of,
    respond,
)
from service.control.routing import VersionName
from service.errors import BadRequest, SensoriumError, TooLarge
from service.inference.admission import Admission, check, enter
from service.inference.pipeline import Files, Prediction, gather
from service.inference.servable import Servable
from service.model.manifest import Kind, Modality, Task
from service.model.meaning import ZERO_SHOT_SCALE, Floats, best, cosines, softmax

router = APIRouter(tags=["files"], responses=RESPONSES)


VERSION = "Its number, or an alias. Without one, what the model's routing says: else the latest."


class ModelQuery(Strict):
    """Which model; without one, the only one that can do it."""

    model: str | None = None
    version: VersionName | None = Field(None, description=VERSION)


def choose(
    request: Request,
    context: AppContext,
    kind: Kind,
    task: Task | None,
    name: str | None,
    version: str | None,
) -> Servable:
    """The model for a request, in the version that it names, or that its id draws."""
    state = request.scope["state"]
    served = context.repository.choose(kind, task, name, version, state["request_id"])
    state.setdefault("manifests", []).append(served.model.manifest)  # for its log
    return served


class ClassifyQuery(Strict):
    """Which model, or models: several give `{"answers": [...]}`."""

    model: list[str] = Field([], max_length=32, description="Repeat it to ask several models.")
    version: VersionName | None = Field(None, description=VERSION)
    top_k: int = Field(5, ge=1, le=10_000, description="How many labels, the likeliest first.")


class TextClassifyQuery(ClassifyQuery):
    labels: list[str] = Field(
        [], max_length=256, description="Zero-shot: classify by likeness to these words."
    )


Texts = Annotated[list[str], Field(fail_fast=True)]


class Comparison(Strict):
    """Texts to compare: with each other, or each of `input` with each of `against`."""

    input: str | Texts
    against: str | Texts | None = None


def file_route(
    path: str,
    kind: Kind,
    query: type[BaseModel],
    answer: dict[str, Any],
    verbs: tuple[str, ...] = ("POST", "PUT"),  # PUT is what `curl -T` sends
) -> Callable[[Endpoint], Endpoint]:
    """A route that FastAPI describes and `Direct` calls."""
    several = path.endswith("/classify")

    def register(endpoint: Endpoint) -> Endpoint:
        ROUTES[path] = FileRoute(endpoint, query, verbs)
        for verb in verbs:
            router.add_api_route(
                path,
                endpoint,
                methods=[verb],
                operation_id=f"{endpoint.__name__}_{verb.lower()}",
                response_model=Answer | Answers if several else Answer,
                openapi_extra=examples.request(kind),
                responses=examples.response(answer),
            )
        return endpoint

    return register


@file_route("/v1/image/classify", "image", ClassifyQuery, examples.IMAGE_LABELS)
async def classify_image(
    request: Request, context: Context, query: Annotated[ClassifyQuery, Query()]
) -> Response:
    """Labels of pictures, the likeliest first."""
    return await _classify(request, context, "image", query)


@file_route("/v1/audio/classify", "audio", ClassifyQuery, examples.AUDIO_LABELS)
async def classify_audio(
    request: Request, context: Context, query: Annotated[ClassifyQuery, Query()]
) -> Response:
    """Labels of recordings, the likeliest first."""
    return await _classify(request, context, "audio", query)


@file_route("/v1/text/classify", "text", TextClassifyQuery, examples.TEXT_LABELS)
async def classify_text(
    request: Request, context: Context, query: Annotated[TextClassifyQuery, Query()]
) -> Response:
    """Labels of texts: a model's own (`model=`), or those of the query by likeness (`labels=`)."""
    if query.labels:
        return await _classify_by_likeness(request, context, query)
    if not query.model and context.repository.default("text", "classify") is None:
        encoders = ", ".join(context.repository.able("text", "embed")) or "none"
        models = ", ".join(context.repository.able("text", "classify")) or "none"
        raise BadRequest(
            "say model= for a model's own labels"
            f" (there are: {models}), or labels= several times to classify by likeness"
            f" (with the vectors of: {encoders})",
            "model",
        )
    return await _classify(request, context, "text", query)


@file_route("/v1/multimodal/classify", "multimodal", ClassifyQuery, examples.TEXT_LABELS, ("POST",))
async def classify_parts(
    request: Request, context: Context, query: Annotated[ClassifyQuery, Query()]
) -> Response:
    """Labels of what several files say together: parts named image, text, audio; some may miss."""
    return await _classify(request, context, "multimodal", query)


@file_route("/v1/image/embed", "image", ModelQuery, examples.VECTOR)
async def embed_image(
    request: Request, context: Context, query: Annotated[ModelQuery, Query()]
) -> Response:
    """Vectors of pictures."""
    return await _embed(request, context, "image", query)


@file_route("/v1/text/embed", "text", ModelQuery, examples.VECTOR)
async def embed_text(
    request: Request, context: Context, query: Annotated[ModelQuery, Query()]
) -> Response:
    """Vectors of texts: near meanings lie near."""
    return await _embed(request, context, "text", query)


@router.post(
    "/v1/text/similarity",
    response_model=Similarity,
    openapi_extra=examples.document(Comparison),
    responses=examples.response(examples.SIMILARITY),
)
async def compare_texts(
    request: Request, context: Context, query: Annotated[ModelQuery, Query()]
) -> Response:
    """Cosines of texts: of every two of `input`, or of `input` with those of `against`."""
    served = choose(request, context, "text", "embed", query.model, query.version)
    deadline = deadline_of(request, context.settings.timeout_ms)
    comparison = await read_document(
        request, Comparison, context.settings, in_query=ModelQuery.model_fields
    )
    rows, columns = _texts(comparison.input), _texts(comparison.against)
    if len(rows) + len(columns) < 2:
        raise BadRequest("similarity wants two texts or more", "input")
    if len(rows) + len(columns) > context.settings.max_items:
        raise TooLarge(f"at most {context.settings.max_items} texts are compared at once")
    predictions = await _embed_words(request, context, served, rows + columns, deadline)
    vectors = [prediction.values for prediction in predictions]
    left = vectors[: len(rows)]
    document = Similarity(
        model=served.model.manifest.name,
        version=str(served.model.manifest.version),
        similarities=cosines(left, vectors[len(rows) :] or left).tolist(),
    )
    return respond(document, [prediction.timings for prediction in predictions])


Read = Callable[[Servable, Prediction], Finding]


async def _classify(
    request: Request, context: AppContext, kind: Kind, query: ClassifyQuery
) -> Response:
    names: list[str | None] = [*query.model] or [None]
    models = [choose(request, context, kind, "classify", each, query.version) for each in names]
    labels = sum([min(query.top_k, len(served.model.labels)) for served in models])

    def read(served: Servable, prediction: Prediction) -> Finding:
        return {"labels": _rank(served.model.labels, prediction.values, query.top_k)}

    received = await _receive(request, context, models, kind)
    return await _answer(request, context, models, "classify", read, received, labels)


async def _embed(
    request: Request, context: AppContext, modality: Modality, query: ModelQuery
) -> Response:
    served = choose(request, context, modality, "embed", query.model, query.version)

    def read(_: Servable, prediction: Prediction) -> Finding:
        return {"vector": cast(list[float], prediction.values)}  # it is written as one

    received = await _receive(request, context, [served], modality)
    return await _answer(request, context, [served], "embed", read, received)


async def _classify_by_likeness(
    request: Request, context: AppContext, query: TextClassifyQuery
) -> Response:
    if len(query.model) > 1:
        raise BadRequest("labels= are compared by the vectors of one model only", "model")
    name = query.model[0] if query.model else None
    served = choose(request, context, "text", "embed", name, query.version)
    received = await _receive(request, context, [served], "text")
    words = await _embed_words(
        request, context, served, query.labels, received.deadline, noun="label"
    )
    vectors = [prediction.values for prediction in words]

    def read(_: Servable, prediction: Prediction) -> Finding:
        [likeness] = cosines([prediction.values], vectors)
        return {"labels": _rank(query.labels, softmax(likeness * ZERO_SHOT_SCALE), query.top_k)}

    labels = min(query.top_k, len(query.labels))
    return await _answer(request, context, [served], "embed", read, received, labels)


class Received(NamedTuple):
    """A request's items, when they must be answered, and where they queue."""

    items: Items
    deadline: float
    admissions: list[Admission]


async def _receive(
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


async def _answer(
    request: Request,
    context: AppContext,
    models: list[Servable],
    task: Task,
    read: Read,
    received: Received,
    labels: int = 0,
) -> Response:
    """Every model's prediction of every item, read as the route wants it.

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
        results = []
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, SensoriumError):
                problem = describe(outcome, request.state.request_id)
                result = Result(index=index, status="error", error=problem)
            else:
                found = read(served, outcome[number])
                result = cast(Result, {"index": index, "status": "ok", **found})
                if outcome[number].truncated:
                    result["truncated"] = True
            if filename := items.filename(index):
                result["filename"] = filename
            results.append(result)
        manifest = served.model.manifest
        answers.append(Answer(model=manifest.name, version=str(manifest.version), results=results))
    document = answers[0] if len(answers) == 1 else Answers(answers=answers)
    good = [outcome for outcome in outcomes if not isinstance(outcome, SensoriumError)]
    return respond(document, [prediction.timings for outcome in good for prediction in outcome])


async def _predict_all(
    context: AppContext,
    models: list[Servable],
    task: Task,
    items: Sequence[Given],
    deadline: float,
    window: int,
) -> list[list[Prediction] | SensoriumError]:
    """Each item's outcome; so many are asked for at once that they do not fill the queue."""
    outcomes: list[list[Prediction] | SensoriumError] = []
    for start in range(0, len(items), window):
        several = items[start : start + window]
        outcomes += await gather([_predict(context, models, task, i, deadline) for i in several])
    return outcomes


async def _predict(
    context: AppContext, models: list[Servable], task: Task, item: Given, deadline: float
) -> list[Prediction] | SensoriumError:
    """One item's prediction by each model, or why there is none; counted by its outcome."""
    outcome: list[Prediction] | SensoriumError
    started = perf_counter()
    try:
        if isinstance(item, SensoriumError):
            raise item
        outcome = await context.pipeline.predict([(m, task) for m in models], item, deadline)
    except SensoriumError as error:
        outcome = error
    count(models, outcome, started)
    return outcome


async def _embed_words(
    request: Request,
    context: AppContext,
    served: Servable,
    words: Sequence[str],
    deadline: float,
    noun: str = "item",
) -> list[Prediction]:
    """The vectors of texts that belong to the request itself: one that fails, fails it."""

    async def embed(word: str) -> Prediction:
        item: Files = {"text": encode_text(word)}
        [prediction] = await context.pipeline.predict([(served, "embed")], item, deadline)
        return prediction

    window = context.settings.window
    with enter(served.admissions, min(len(words), window), deadline):
        work = all_or_none(served, embed, words, window=window, noun=noun)
        return await while_there(request, served.admissions, work)


def _texts(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def _rank(labels: Sequence[str], scores: Floats, top_k: int) -> list[Label]:
    """The likeliest labels, highest first."""
    return [Label(label=labels[index], score=scores[index]) for index in best(scores, top_k)]
