"""The BentoML service: workers and lifecycle are its, the routes are ours.

bentoml serve service.app:Sensorium
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import bentoml
from _bentoml_sdk import Service
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from threadpoolctl import threadpool_limits

from service import metrics
from service.errors import OperatorError, ProviderMissing
from service.routes import build_api, build_app
from service.routes.state import build_state
from service.session import choose_provider
from service.settings import Settings
from service.version import VERSION

logger = logging.getLogger(__name__)

settings = Settings()
try:
    state = build_state(settings)
except OperatorError as error:
    sys.exit(str(error))  # here, so that the start ends: BentoML would restart a worker for ever
api = build_api()
api.state.sensorium = state
app = build_app(api, settings)

# Lanes and decoders are the threads here. BLAS would start its own for each small product, and
# they spin: the spectrogram of a second of sound took twice the CPU time.
threadpool_limits(1, user_api="blas")


class Front:
    """Every path is ours, before BentoML's routes and its middleware.

    Its `/`, `/readyz` ... would shadow ours, and its deadline keeps a timer for each request until
    it runs out, whether or not the request was answered meanwhile.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._bentoml = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (app if scope["type"] == "http" else self._bentoml)(scope, receive, send)


@bentoml.service(
    name="sensorium",
    workers=settings.workers,
)
class Sensorium:
    """One service for pictures, text and sound."""

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Load in the background: the process lives, and says itself when it is ready.

        One worker of several takes no connection before it can answer: the others do meanwhile.
        """
        logging.getLogger("service").setLevel(logging.INFO)
        provider = _announce_provider()
        metrics.BUILD.labels(VERSION, version("bentoml"), version("onnxruntime"), provider).set(1)
        loading = asyncio.create_task(state.repository.open())
        self._tasks = [loading, asyncio.create_task(state.watch.run())]
        if settings.workers > 1:
            await loading

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Finish what is queued."""
        for task in self._tasks:
            task.cancel()
        await state.repository.close()
        state.pipeline.close()


def _put_front_first(build: Callable[..., Starlette]) -> Callable[..., Starlette]:
    def build_with_front(*args: Any, **options: Any) -> Starlette:
        application = build(*args, **options)
        application.user_middleware.insert(0, Middleware(Front))
        return application

    return build_with_front


# `add_asgi_middleware` would put it behind all the others, and the service takes no attributes.
Service.to_asgi = _put_front_first(Service.to_asgi)


def _announce_provider() -> str:
    """The provider that models run on; one that was asked for and is missing is loud."""
    try:
        provider = choose_provider(settings.provider)
    except ProviderMissing as error:
        logger.error("%s: no model can be served", error)
        metrics.PROVIDER_MISSING.labels(settings.provider).set(1)
        return f"{settings.provider} (missing)"
    logger.info("models run on %s", provider)
    return provider
