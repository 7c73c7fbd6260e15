"""Preview: what a model sees of a file, turned back for people."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from service.api import examples
from service.api.context import AppContext, Context
from service.api.problems import RESPONSES
from service.api.request.payloads import read_items
from service.api.responses import deadline_of
from service.api.v1 import drawings
from service.api.v1.predict import ModelQuery, choose
from service.errors import BadRequest, DeadlineExceeded, SensoriumError
from service.model.manifest import Modality
from service.model.preprocessing import AudioPreprocessor, ImagePreprocessor, TextPreprocessor
from service.model.preprocessing.text import Token

router = APIRouter(tags=["previews"], responses=RESPONSES)
T = TypeVar("T")

PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}, "description": "A picture."}
}


class Tokens(BaseModel):
    """A text as its model reads it; `[start, end)` are characters of the text."""

    model: str
    version: str
    truncated: bool
    tokens: list[Token]


@router.post(
    "/v1/image/preview",
    response_class=Response,
    responses=PNG,
    openapi_extra=examples.request("image"),
)
async def preview_image(
    request: Request, context: Context, query: Annotated[ModelQuery, Query()]
) -> Response:
    """The picture rebuilt from the model's input, as PNG."""
    served = choose(request, context, "image", None, query.model, query.version)
    preprocessor = served.model.preprocessor
    assert isinstance(preprocessor, ImagePreprocessor)

    def draw(payload: bytes) -> bytes:
        return drawings.encode(preprocessor.restore(preprocessor.decode(payload)))

    return Response(await _turn(request, context, "image", draw), media_type="image/png")


@router.post(
    "/v1/audio/preview",
    response_class=Response,
    responses=PNG,
    openapi_extra=examples.request("audio"),
)
async def preview_audio(
    request: Request, context: Context, query: Annotated[ModelQuery, Query()]
) -> Response:
    """Waveform and log-mel spectrogram, with axes, as PNG."""
    served = choose(request, context, "audio", None, query.model, query.version)
    preprocessor = served.model.preprocessor
    assert isinstance(preprocessor, AudioPreprocessor)

    def draw(payload: bytes) -> bytes:
        wave, _ = preprocessor.waveform(payload)
        return drawings.draw_audio(wave, preprocessor.features(wave), preprocessor.spec)

    return Response(await _turn(request, context, "audio", draw), media_type="image/png")


@router.post("/v1/text/preview", openapi_extra=examples.request("text"))
async def preview_text(
    request: Request, context: Context, query: Annotated[ModelQuery, Query()]
) -> Tokens:
    """The tokens, with their ids and offsets."""
    served = choose(request, context, "text", None, query.model, query.version)
    preprocessor = served.model.preprocessor
    assert isinstance(preprocessor, TextPreprocessor)
    tokens, truncated = await _turn(request, context, "text", preprocessor.tokens)
    manifest = served.model.manifest
    return Tokens(
        model=manifest.name, version=str(manifest.version), truncated=truncated, tokens=tokens
    )


async def _turn(
    request: Request, context: AppContext, modality: Modality, turn: Callable[[bytes], T]
) -> T:
    """The request's only item, turned in the decoders' pool when no other preview is."""
    deadline = deadline_of(request, context.settings.timeout_ms)
    items = await read_items(request, modality, context.settings, deadline)
    if len(items.given) != 1:
        raise BadRequest("a preview takes one item")
    [item] = items.given
    if isinstance(item, SensoriumError):
        raise item
    try:
        async with asyncio.timeout_at(deadline), context.previews:
            return await context.pipeline.decode(turn, item[modality], deadline)
    except TimeoutError:
        raise DeadlineExceeded("the preview was not drawn before the deadline") from None
