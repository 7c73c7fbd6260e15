"""Health and metrics: the routes for load balancers and Prometheus."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from service import metrics
from service.api.context import Context
from service.api.problems import RESPONSES
from service.control.selection import ModelState
from service.version import VERSION

router = APIRouter(tags=["health"], responses=RESPONSES)


class Liveness(BaseModel):
    status: Literal["alive", "stuck"] = "alive"
    reason: str | None = None


class ReadyModel(BaseModel):
    name: str
    version: str
    state: ModelState
    reason: str | None = None  # why it failed


class Readiness(BaseModel):
    status: Literal["ready", "unready"]
    provider: str  # as requested by the settings
    missing: list[str]  # required models that do not serve
    models: list[ReadyModel]


class About(BaseModel):
    name: Literal["sensorium"] = "sensorium"
    version: str
    openapi: str = "/openapi.json"


@router.get("/")
async def about() -> About:
    """The service's name and version, and the path of its description."""
    return About(version=VERSION)


@router.get(
    "/livez",
    response_model_exclude_none=True,
    responses={503: {"model": Liveness, "description": "Stuck: the process needs a restart."}},
)
async def livez(context: Context) -> Liveness:
    """Whether the process answers and nothing in it is stuck."""
    if context.watch.ailment is None:
        return Liveness()
    document = Liveness(status="stuck", reason=context.watch.ailment)
    return JSONResponse(document.model_dump(), 503)  # type: ignore[return-value]


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready."}})
async def readyz(context: Context) -> Readiness:
    """Whether at least one model and all required models serve, and the state of every model."""
    document = Readiness(
        status="ready" if context.repository.ready else "unready",
        provider=context.settings.provider,
        missing=context.repository.missing,
        models=[
            ReadyModel(name=e.name, version=e.version, state=e.state, reason=e.reason)
            for e in context.repository.entries()
        ],
    )
    if document.status == "ready":
        return document
    return JSONResponse(document.model_dump(), 503)  # type: ignore[return-value]


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def get_metrics() -> Response:
    """All metrics in Prometheus' text format."""
    return Response(metrics.render(), media_type=metrics.CONTENT_TYPE)
