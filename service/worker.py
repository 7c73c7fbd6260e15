"""Worker: everything that one worker process owns, from its start to its last response."""

import gc
import logging
from functools import partial
from importlib.metadata import version
from pathlib import Path

from threadpoolctl import threadpool_limits

from service import metrics
from service.api import build_api, build_app
from service.api.context import build_context
from service.errors import ProviderMissing
from service.runtime.session import choose_provider, cuda_is_installed
from service.settings import Provider, Settings
from service.supervision import supervise
from service.version import VERSION

logger = logging.getLogger(__name__)


class Worker:
    """The models and background tasks of this process, and `app`, which answers requests."""

    def __init__(self, settings: Settings, state_folder: Path) -> None:
        """Args:
            state_folder: the folder that all workers share.

        Raises:
            OperatorError: a file or folder of the settings cannot be used.
        """
        if settings.workers == 1:
            metrics.use_one_process()
        # BLAS threads spin: with them, the spectrogram of one second took twice the CPU time.
        threadpool_limits(1, user_api="blas")
        self._settings = settings
        self._context = build_context(settings, state_folder)
        api = build_api()
        api.state.sensorium = self._context
        self.app = build_app(api, settings)

    async def start(self) -> None:
        """Load the models in the background, and start the supervised tasks.

        With several workers, wait until the models are loaded: the other workers answer meanwhile.
        """
        # Frozen objects, here all modules, are skipped by full collections. Without this, each one
        # stops the event loop for 60 to 100 ms. Models are loaded later and can be collected.
        gc.freeze()
        provider = _log_provider(self._settings)
        metrics.BUILD.labels(VERSION, version("bentoml"), version("onnxruntime"), provider).set(1)
        workers = self._context.workers
        loading = supervise("loading the models", workers.open)
        self._tasks = [
            loading,
            supervise("the watchdog", self._context.watch.run),
            supervise("the control channel", workers.attend),
        ]
        if seconds := self._settings.model_poll_seconds:
            following = supervise("polling the models folder", partial(workers.follow, seconds))
            self._tasks.append(following)
        if self._settings.workers > 1:
            await loading

    async def stop(self) -> None:
        """Finish queued work and end the background tasks."""
        for task in self._tasks:
            task.cancel()
        self._context.workers.close()
        await self._context.repository.close()
        self._context.pipeline.close()


def _log_provider(settings: Settings) -> str:
    try:
        provider = choose_provider(settings.provider)
    except ProviderMissing as error:
        logger.error("%s: no model can be served", error)
        metrics.PROVIDER_MISSING.labels(settings.provider).set(1)
        return f"{settings.provider} (missing)"
    if settings.provider is Provider.AUTO and provider is Provider.CPU and cuda_is_installed():
        metrics.PROVIDER_MISSING.labels(Provider.CUDA).set(1)
    logger.info("models run on %s", provider)
    return provider
