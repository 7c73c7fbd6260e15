"""The HTTP interface: thin shells that turn requests into calls of the pipeline."""

from fastapi import FastAPI

from service.routes import files, health, models, preview, problems
from service.routes.direct import Direct
from service.routes.edge import Edge
from service.settings import Settings
from service.version import VERSION

__all__ = ["build_api"]


def build_api(settings: Settings) -> FastAPI:
    """The application; whoever starts it sets `state.sensorium` to a `State`."""
    api = FastAPI(
        title="Sensorium",
        version=VERSION,
        summary="One service for pictures, text and sound: POST a file, get labels or vectors.",
        docs_url=None,  # its pages load scripts from a third party
        redoc_url=None,
        responses=problems.RESPONSES,
    )
    for routes in (files, preview, models, health):
        api.include_router(routes.router)
    problems.install(api)
    api.add_middleware(Direct)
    api.add_middleware(Edge, max_body_bytes=settings.max_body_bytes)
    return api
