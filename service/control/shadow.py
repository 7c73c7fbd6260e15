"""Shadows: a version on trial gets copies of items; how often it disagrees is counted."""

import asyncio
import logging
from collections.abc import Sequence

from service.control.repository import Repository
from service.errors import SensoriumError
from service.inference.pipeline import Ask, Files, Pipeline
from service.inference.servable import Servable
from service.model.types import Result

logger = logging.getLogger(__name__)

MOST = 16  # copies in flight in one worker; a slow shadow must not gather work


class Shadows:
    """Follows the pipeline's results; no request waits for it."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._comparing: set[asyncio.Task[None]] = set()

    def follow(
        self,
        pipeline: Pipeline,
        asks: Sequence[Ask],
        item: Files,
        results: Sequence[Result],
        deadline: float,
    ) -> None:
        """Send a copy of an answered item to the shadow of each model, if it has one."""
        for ask, result in zip(asks, results, strict=True):
            shadow = self._repository.shadow(ask[0])
            if shadow is None:
                continue
            if len(self._comparing) == MOST:
                shadow.series.shadowed("skipped")
                continue
            comparison = _compare(pipeline, ask, shadow, item, result, deadline)
            task = asyncio.create_task(comparison)
            self._comparing.add(task)
            task.add_done_callback(self._comparing.discard)


async def _compare(
    pipeline: Pipeline,
    ask: Ask,
    shadow: Servable,
    item: Files,
    given: Result,
    deadline: float,
) -> None:
    served, task = ask
    if task not in shadow.model.tasks:
        shadow.series.shadowed("failed")
        return
    try:
        [found] = await pipeline.predict([(shadow, task)], item, deadline)
        other = shadow.model.tasks[task]
        agrees = served.model.tasks[task].agrees(given.answer, other, found.answer)
    except SensoriumError:
        shadow.series.shadowed("failed")
        return
    except Exception:
        logger.exception("%s failed as a shadow", shadow.series.name)
        shadow.series.shadowed("failed")
        return
    shadow.series.shadowed("agree" if agrees else "differ")
