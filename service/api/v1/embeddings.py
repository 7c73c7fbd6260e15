"""Embeddings as OpenAI's clients ask for them."""

import base64
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Query, Request
from pydantic import Field, PositiveInt
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from service.api import examples
from service.api.context import Context
from service.api.dispatch import ROUTES, FileRoute
from service.api.outcomes import all_or_none
from service.api.problems import RESPONSES
from service.api.request.disconnect import while_there
from service.api.request.media import decode_data_uri
from service.api.request.payloads import encode_text, read_document
from service.api.request.strict import Strict
from service.api.responses import deadline_of, respond
from service.errors import BadRequest, TooLarge, Unsupported
from service.inference.admission import enter
from service.inference.pipeline import Pipeline
from service.inference.servable import Servable
from service.model.preprocessing import MODALITIES
from service.model.preprocessing.text import TextPreprocessor
from service.model.specs import MULTIMODAL
from service.model.tasks.embed import unit
from service.model.tasks.task import Floats
from service.model.types import Result

router = APIRouter(tags=["openai"], responses=RESPONSES)

MAX_INPUTS = 2048  # as at OpenAI, so that its clients need not be told otherwise
TOKENS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
ITEM = {"oneOf": [{"type": "string"}, TOKENS]}


class EmbeddingRequest(Strict):
    model: str
    input: Annotated[
        Any,
        Field(
            description="A text, a list of token ids, or a list of these; for a model of images"
            " or audio, a base64 data URI or a list of them.",
            json_schema_extra={"oneOf": [*ITEM["oneOf"], {"type": "array", "items": ITEM}]},
            examples=["a quiet flat near the sea"],
        ),
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: PositiveInt | None = None
    user: str | None = None  # for OpenAI's bookkeeping; not used


class Embedding(TypedDict):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str  # numbers, or base64 of little-endian float32


class Usage(TypedDict):
    """Tokens of the texts that were read; images and audio have none."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class NoQuery(Strict):
    """None: model and all else are in the body."""


@router.post(
    "/v1/embeddings", response_model=Embeddings, openapi_extra=examples.document(EmbeddingRequest)
)
async def embed(request: Request, context: Context, _: Annotated[NoQuery, Query()]) -> Response:
    """Vectors of texts, token lists, images or audio, in the shape of OpenAI's answers."""
    deadline = deadline_of(request, context.settings.timeout_ms)
    asked = await read_document(request, EmbeddingRequest, context.settings)
    served = context.repository.pick(asked.model, request_id=request.state.request_id)
    request.scope["state"]["manifests"] = [served.model.manifest]
    manifest = served.model.manifest
    task = served.model.tasks.get("embed")
    if task is None or manifest.kind == MULTIMODAL:
        raise Unsupported(f"{asked.model} cannot embed {manifest.kind}")
    if asked.dimensions and asked.dimensions > task.width:
        raise BadRequest(f"{asked.model} gives {task.width} dimensions, not more", "dimensions")
    items = _items(asked.input)
    most = max(MAX_INPUTS, context.settings.max_items)
    if len(items) > most:
        raise TooLarge(f"the request holds {len(items)} items; at most {most} are taken")

    async def predict(item: object) -> Result:
        return await _predict(context.pipeline, served, item, deadline)

    window = context.settings.window
    with enter(served.admissions, min(len(items), window), deadline):
        work = all_or_none(served, predict, items, window=window)
        results = await while_there(request, served.admissions, work)
    tokens = sum(result.cost for result in results) if _reads_text(served) else 0
    data = [
        Embedding(object="embedding", index=number, embedding=_encode(result.answer, asked))
        for number, result in enumerate(results)
    ]
    usage = Usage(prompt_tokens=tokens, total_tokens=tokens)
    document = Embeddings(object="list", data=data, model=manifest.name, usage=usage)
    return respond(document, results)


ROUTES["/v1/embeddings"] = FileRoute(embed, NoQuery, ("POST",))


def _reads_text(served: Servable) -> bool:
    return MODALITIES[served.modality].is_text


def _items(given: object) -> list[object]:
    """Texts and token lists, whether one came or several.

    Raises:
        BadRequest: there are none.
    """
    if given == []:
        raise BadRequest("input holds nothing", "input")
    return given if isinstance(given, list) and not _is_tokens(given) else [given]


def _is_tokens(given: object) -> bool:
    return isinstance(given, list) and all(type(number) is int for number in given)


async def _predict(pipeline: Pipeline, served: Servable, item: object, deadline: float) -> Result:
    match item:
        case str(text):
            payload = encode_text(text) if _reads_text(served) else decode_data_uri(text)
            [result] = await pipeline.predict(
                [(served, "embed")], {served.modality: payload}, deadline
            )
            return result
        case list(ids) if _is_tokens(ids):
            preprocessor = served.model.preprocessor
            if not isinstance(preprocessor, TextPreprocessor):
                raise Unsupported(f"{served.model.manifest.name} reads no tokens")
            return await pipeline.predict_sample(
                served, "embed", preprocessor.sample(ids), deadline
            )
    raise BadRequest("an input must be a string or a list of token ids", "input")


def _encode(vector: Floats, asked: EmbeddingRequest) -> list[float] | str:
    """The vector, cut to the dimensions that were asked for and then of length 1 again."""
    if asked.dimensions:
        [vector] = unit([vector[: asked.dimensions]])
    if asked.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return cast(list[float], vector)  # it is written as one
