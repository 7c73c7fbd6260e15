"""Shadows: a version on trial answers copies of items, and how often it disagrees is counted."""

import asyncio
import logging
from collections.abc import Sequence

from service.control.repository import Repository
from service.errors import SensoriumError
from service.inference.pipeline import Ask, Files, Pipeline, Prediction
from service.inference.servable import Servable
from service.model.manifest import Task
from service.model.meaning import cosines

logger = logging.getLogger(__name__)

MOST = 16  # copies in flight in one worker; a slow shadow must not gather work
ALIKE = 0.99  # cosine of two vectors that say the same


class Shadows:
    """Follows the pipeline's answers; nobody waits for it."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._comparing: set[asyncio.Task[None]] = set()

    def follow(
        self,
        pipeline: Pipeline,
        asks: Sequence[Ask],
        item: Files,
        predictions: Sequence[Prediction],
        deadline: float,
    ) -> None:
        """Give an item that was answered to the shadows of those who answered, if they have any."""
        for ask, prediction in zip(asks, predictions, strict=True):
            shadow = self._repository.shadow(ask[0])
            if shadow is None:
                continue
            if len(self._comparing) == MOST:
                shadow.series.shadowed("skipped")
                continue
            comparison = _compare(pipeline, ask, shadow, item, prediction, deadline)
            task = asyncio.create_task(comparison)
            self._comparing.add(task)
            task.add_done_callback(self._comparing.discard)


async def _compare(
    pipeline: Pipeline,
    ask: Ask,
    shadow: Servable,
    item: Files,
    given: Prediction,
    deadline: float,
) -> None:
    served, task = ask
    if task not in shadow.model.manifest.tasks.outputs():
        shadow.series.shadowed("failed")
        return
    try:
        [found] = await pipeline.predict([(shadow, task)], item, deadline)
        agrees = _agree(task, served, given, shadow, found)
    except SensoriumError:
        shadow.series.shadowed("failed")
        return
    except Exception:
        logger.exception("%s failed as a shadow", shadow.series.name)
        shadow.series.shadowed("failed")
        return
    shadow.series.shadowed("agree" if agrees else "differ")


def _agree(
    task: Task, served: Servable, given: Prediction, shadow: Servable, found: Prediction
) -> bool:
    """Whether both find the same label likeliest, or vectors of nearly the same direction."""
    if task == "classify":
        labels = (served.model.labels, shadow.model.labels)
        return labels[0][given.values.argmax()] == labels[1][found.values.argmax()]
    same_width = given.values.shape == found.values.shape
    return same_width and cosines([given.values], [found.values]).item() >= ALIKE
