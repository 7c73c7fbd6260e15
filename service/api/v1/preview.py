"""Preview: what a model sees of a file, at `/v1/{modality}/preview`."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api import examples
from service.api.context import AppContext, Context
from service.api.problems import RESPONSES
from service.api.request.payloads import read_items
from service.api.responses import deadline_of, respond
from service.api.v1.predict import ModelQuery, choose
from service.errors import BadRequest, DeadlineExceeded, SensoriumError
from service.inference.servable import Servable
from service.model.preprocessing import MODALITIES
from service.model.specs import Modality

router = APIRouter(tags=["previews"], responses=RESPONSES)

PREVIEW: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"image/png": {}, "application/json": {"schema": {"type": "object"}}},
        "description": "An image, or a JSON object with `model` and `version`.",
    }
}


def add_route(modality: Modality) -> None:
    async def preview(
        request: Request, context: Context, query: Annotated[ModelQuery, Query()]
    ) -> Response:
        served = choose(request, context, modality, None, query.model, query.version)
        shown = await _preview(request, context, served, modality)
        if isinstance(shown, bytes):
            return Response(shown, media_type="image/png")
        manifest = served.model.manifest
        return respond({"model": manifest.name, "version": str(manifest.version), **shown}, [])

    preview.__doc__ = MODALITIES[modality].preview.__doc__
    router.add_api_route(
        f"/v1/{modality}/preview",
        preview,
        methods=["POST"],
        operation_id=f"preview_{modality}",
        summary=f"Preview {MODALITIES[modality].plural}",
        response_class=Response,
        responses=PREVIEW,
        openapi_extra=examples.request(modality),
    )


for each in MODALITIES:
    add_route(each)


async def _preview(
    request: Request, context: AppContext, served: Servable, modality: Modality
) -> bytes | dict[str, Any]:
    """The preview of the request's only item, made by a decoder; one preview at a time."""
    deadline = deadline_of(request, context.settings.timeout_ms)
    items = await read_items(request, modality, context.settings, deadline)
    if len(items.given) != 1:
        raise BadRequest("a preview takes one item")
    [item] = items.given
    if isinstance(item, SensoriumError):
        raise item
    preview = served.model.preprocessor.preview
    try:
        async with asyncio.timeout_at(deadline), context.previews:
            return await context.pipeline.decode(preview, item[modality], deadline)
    except TimeoutError:
        raise DeadlineExceeded("the preview was not drawn before the deadline") from None
