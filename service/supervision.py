"""Supervision: background work that fails is logged and restarted, or ends the worker."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from service.errors import OperatorError

logger = logging.getLogger(__name__)

PAUSE = 1.0  # seconds before the first restart; each further pause is twice as long
LONGEST_PAUSE = 30.0  # seconds; after work that lasted longer, the pause is PAUSE again

STARTER = "_SENSORIUM_STARTER"  # environment variable: the process id of the workers' parent

_detached: set[asyncio.Task[None]] = set()  # the event loop holds only weak references to tasks


def supervise(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """Run `work` in the background. When it fails, log the cause and start it again.

    The task ends when the work returns or is cancelled.
    """
    return asyncio.create_task(_restart(name, work), name=name)


async def _restart(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    pause = PAUSE
    while True:
        started = monotonic()
        try:
            return await work()
        except OperatorError as error:
            logger.error("%s failed: %s", name, error)
        except Exception:
            logger.exception("%s failed", name)
        if monotonic() - started > LONGEST_PAUSE:
            pause = PAUSE
        logger.warning("%s starts again in %g s", name, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def detach(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run `work` once in the background and log a failure, even if nothing awaits the task."""
    task = asyncio.create_task(work, name=name)
    _detached.add(task)
    task.add_done_callback(_settle)
    return task


def _settle(task: asyncio.Task[None]) -> None:
    _detached.discard(task)
    if not task.cancelled() and (error := task.exception()):
        logger.error("%s failed", task.get_name(), exc_info=error)


def end_worker(reason: str) -> None:
    """Log the reason and shut this process down. Queued work is drained; BentoML starts another."""
    logger.critical("this worker ends: %s", reason)
    os.kill(os.getpid(), signal.SIGTERM)
