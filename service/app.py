"""The BentoML service: workers, lifecycle, and our routes in front of BentoML's own.

bentoml serve service.app:Sensorium
"""

import asyncio
import logging
import sys
from importlib.metadata import version

import bentoml
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

# BentoML's own deadline is a net under ours, which answers with a problem document.
NET_SECONDS = 120


class Front:
    """Every path is ours but BentoML's list of routes: its `/`, `/readyz` ... would shadow ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._bentoml = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["path"] != "/docs.json"
        await (app if ours else self._bentoml)(scope, receive, send)


@bentoml.service(
    name="sensorium",
    workers=settings.workers,
    traffic={"timeout": NET_SECONDS},
    metrics={"enabled": False},  # its labels are raw paths; ours are in service/metrics.py
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},  # nothing exports the spans that each request would make
)
@bentoml.asgi_app(app)
class Sensorium:
    """One service for pictures, text and sound."""

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Load in the background: the process lives, and says itself when it is ready."""
        logging.getLogger("service").setLevel(logging.INFO)
        provider = _announce_provider()
        metrics.BUILD.labels(VERSION, version("bentoml"), version("onnxruntime"), provider).set(1)
        self._loading = asyncio.create_task(state.repository.open())

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Finish what is queued."""
        self._loading.cancel()
        await state.repository.close()
        state.pipeline.close()


Sensorium.add_asgi_middleware(Front)  # type: ignore[attr-defined]  # the decorator makes a Service


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
