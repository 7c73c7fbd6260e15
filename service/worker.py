"""Serving: all that one worker has, and its life from the first model to the last answer."""

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
from service.runtime.placement import CORES, answer_here
from service.runtime.session import choose_provider
from service.settings import Settings
from service.supervision import supervise
from service.version import VERSION

logger = logging.getLogger(__name__)


class Worker:
    """The routes, with the models behind them: `app` answers."""

    def __init__(self, settings: Settings, meeting: Path) -> None:
        """Args:
            meeting: the folder where workers find each other.

        Raises:
            OperatorError: a file or a folder that the settings name cannot be used.
        """
        if settings.workers == 1:
            metrics.use_one_process()
        # Lanes and decoders are the threads here. BLAS would start its own for each small product,
        # and they spin: the spectrogram of a second of sound took twice the CPU time.
        threadpool_limits(1, user_api="blas")
        self._settings = settings
        self._context = build_context(settings, meeting)
        api = build_api()
        api.state.sensorium = self._context
        self.app = build_app(api, settings)

    async def start(self) -> None:
        """Load in the background: the process lives, and says itself when it is ready.

        One worker of several takes no connection before it can answer: the others do meanwhile.
        """
        # Modules stay as they are. A full collection would go through them, 60 to 100 ms in which
        # nothing is answered; models come later, for they may go again.
        gc.freeze()
        answer_here()
        provider = _announce_provider(self._settings)
        metrics.BUILD.labels(VERSION, version("bentoml"), version("onnxruntime"), provider).set(1)
        workers = self._context.workers
        loading = supervise("loading the models", workers.open)
        self._tasks = [
            loading,
            supervise("watching lanes and decoders", self._context.watch.run),
            supervise("attending to the other workers", workers.attend),
        ]
        if seconds := self._settings.model_poll_seconds:
            following = supervise("polling the models folder", partial(workers.follow, seconds))
            self._tasks.append(following)
        if self._settings.workers > 1:
            await loading

    async def stop(self) -> None:
        """Finish what is queued."""
        CORES.answered_by(None)
        for task in self._tasks:
            task.cancel()
        self._context.workers.close()
        await self._context.repository.close()
        self._context.pipeline.close()


def _announce_provider(settings: Settings) -> str:
    """The provider that models run on; one that was asked for and is missing is loud."""
    try:
        provider = choose_provider(settings.provider)
    except ProviderMissing as error:
        logger.error("%s: no model can be served", error)
        metrics.PROVIDER_MISSING.labels(settings.provider).set(1)
        return f"{settings.provider} (missing)"
    logger.info("models run on %s", provider)
    return provider
