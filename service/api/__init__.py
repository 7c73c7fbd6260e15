"""The HTTP interface: thin shells that turn requests into calls of the pipeline."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from service.api import health, problems
from service.api.dispatch import Dispatch
from service.api.middleware.access_log import AccessLog
from service.api.middleware.auth import Authentication
from service.api.middleware.ingress import Ingress
from service.api.middleware.quotas import Quotas
from service.api.openapi import contract
from service.api.v1 import embeddings, models, predict, preview, similarity
from service.api.v2 import infer, metadata, repository, statistics
from service.keys import Keys
from service.settings import Settings

__all__ = ["build_api", "build_app"]

MODULES = (
    *(predict, similarity, embeddings, preview, models),
    *(statistics, metadata, infer),  # /v2/models/stats before a model of that name
    *(repository, health),
)


def build_api() -> FastAPI:
    """The routes and their contract. The caller sets `state.sensorium` to an `AppContext`."""
    api = FastAPI(
        redirect_slashes=False,
        docs_url=None,  # its pages load scripts from a third party
        redoc_url=None,
    )
    api.openapi = lambda: contract(api)  # type: ignore[method-assign]
    # `include_router` builds each route again at its first request: 0.25 s for all of them, during
    # which the event loop answers nothing else.
    for module in MODULES:
        api.router.routes.extend(module.router.routes)
    problems.install(api)
    return api


def build_app(api: FastAPI, settings: Settings) -> ASGIApp:
    """The application: middleware, then `Dispatch`, then the other routes.

    Keys, quotas, access log and CORS are present only if the settings ask for them.

    Raises:
        OperatorError: the file of keys cannot be used.
    """
    app: ASGIApp = Dispatch(api)
    if settings.client_concurrency or settings.client_rate:
        app = Quotas(app, settings.client_concurrency, settings.client_rate)
    if settings.keys:
        app = Authentication(app, Keys(settings.keys))
    app = Ingress(app, settings)
    if settings.log_share:
        app = AccessLog(app, settings.log_share)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            settings.cors_origins,
            allow_methods=("GET", "POST", "PUT"),
            allow_headers=("Authorization", "X-API-Key", "X-Request-Id", "X-Timeout-Ms"),
            expose_headers=("Retry-After", "Server-Timing", "X-Request-Id"),
        )
    return app
