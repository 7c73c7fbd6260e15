"""Similarity: texts compared by their vectors, with each other or with labels of the request."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from service.api import examples
from service.api.context import AppContext, Context
from service.api.outcomes import all_or_none
from service.api.problems import RESPONSES
from service.api.request.disconnect import while_there
from service.api.request.payloads import encode_text, read_document
from service.api.request.strict import Strict
from service.api.responses import Similarity, deadline_of, respond
from service.api.v1 import predict
from service.api.v1.predict import ModelQuery, ModelsQuery, add_route, answer, choose, receive
from service.errors import BadRequest, TooLarge
from service.inference.admission import enter
from service.inference.pipeline import Files
from service.inference.servable import Servable
from service.model.tasks.classify import Classify, TopLabels, rank, softmax
from service.model.tasks.embed import cosines
from service.model.types import Result

router = APIRouter(tags=["files"], responses=RESPONSES)

# all-MiniLM-L6-v2 was trained with cosines times 20 in its softmax; zero-shot scores use the same.
ZERO_SHOT_SCALE = 20.0


class ClassifyTextQuery(TopLabels, ModelsQuery):
    labels: list[str] = Field(
        [], max_length=256, description="Zero-shot: classify by likeness to these words."
    )


Texts = Annotated[list[str], Field(fail_fast=True)]


class Comparison(Strict):
    """Texts to compare: with each other, or each of `input` with each of `against`."""

    input: str | Texts
    against: str | Texts | None = None


classify = predict.predictor("text", Classify)


async def classify_text(
    request: Request, context: AppContext, query: ClassifyTextQuery
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
    return await classify(request, context, query)


add_route("text", Classify, ClassifyTextQuery, classify_text)


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
    results = await _embed_texts(request, context, served, rows + columns, deadline)
    vectors = [result.answer for result in results]
    left = vectors[: len(rows)]
    document = Similarity(
        model=served.model.manifest.name,
        version=str(served.model.manifest.version),
        similarities=cosines(left, vectors[len(rows) :] or left).tolist(),
    )
    return respond(document, results)


async def _classify_by_likeness(
    request: Request, context: AppContext, query: ClassifyTextQuery
) -> Response:
    if len(query.model) > 1:
        raise BadRequest("labels= are compared by the vectors of one model only", "model")
    name = query.model[0] if query.model else None
    served = choose(request, context, "text", "embed", name, query.version)
    received = await receive(request, context, [served], "text")
    words = await _embed_texts(
        request, context, served, query.labels, received.deadline, noun="label"
    )
    vectors = [result.answer for result in words]

    def render(_: Servable, result: Result) -> dict[str, Any]:
        [likeness] = cosines([result.answer], vectors)
        return {"labels": rank(query.labels, softmax(likeness * ZERO_SHOT_SCALE), query.top_k)}

    labels = min(query.top_k, len(query.labels))
    return await answer(request, context, [served], "embed", render, received, labels)


async def _embed_texts(
    request: Request,
    context: AppContext,
    served: Servable,
    texts: Sequence[str],
    deadline: float,
    noun: str = "item",
) -> list[Result]:
    """Vectors of texts that belong to the request itself: one that fails, fails the request."""

    async def embed(text: str) -> Result:
        item: Files = {"text": encode_text(text)}
        [result] = await context.pipeline.predict([(served, "embed")], item, deadline)
        return result

    window = context.settings.window
    with enter(served.admissions, min(len(texts), window), deadline):
        work = all_or_none(served, embed, texts, window=window, noun=noun)
        return await while_there(request, served.admissions, work)


def _texts(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []
