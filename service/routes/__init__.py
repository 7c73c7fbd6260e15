"""The HTTP interface: thin shells that turn requests into calls of the pipeline."""

from fastapi import FastAPI
from starlette.types import ASGIApp

from service.routes import files, health, models, openai, preview, problems, v2
from service.routes.direct import Direct
from service.routes.edge import Edge
from service.settings import Settings
from service.version import VERSION

__all__ = ["build_api", "build_app"]


def build_api() -> FastAPI:
    """The routes and their contract; whoever starts it sets `state.sensorium` to a `State`."""
    api = FastAPI(
        title="Sensorium",
        version=VERSION,
        summary="One service for pictures, text and sound: POST a file, get labels or vectors.",
        redirect_slashes=False,
        docs_url=None,  # its pages load scripts from a third party
        redoc_url=None,
        responses=problems.RESPONSES,
    )
    for routes in (files, openai, preview, models, v2, health):
        api.include_router(routes.router)
    problems.install(api)
    return api


def build_app(api: FastAPI, settings: Settings) -> ASGIApp:
    """What answers requests: the edge, and behind it the direct routes and then all others."""
    return Edge(Direct(api), settings.max_body_bytes)
