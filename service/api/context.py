"""Context: the objects that the routes of one worker share."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from service.control.channel import ControlChannel
from service.control.repository import Repository
from service.control.shadow import Shadows
from service.control.watchdog import Watchdog
from service.inference.cache import CachedPipeline
from service.inference.pipeline import Pipeline
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class AppContext:
    settings: Settings
    repository: Repository
    pipeline: Pipeline
    watch: Watchdog
    workers: ControlChannel
    previews: asyncio.Lock  # one at a time, because requests also need the decoders


def build_context(settings: Settings, meeting: Path) -> AppContext:
    """The context of one worker.

    Args:
        meeting: the folder with the sockets of all workers.

    Raises:
        OperatorError: the models folder is missing.
    """
    repository = Repository(settings)
    follow = Shadows(repository).follow
    pipeline = (
        CachedPipeline(settings.decoders, follow, settings.cache_bytes)
        if settings.cache_bytes
        else Pipeline(settings.decoders, follow)
    )
    return AppContext(
        settings,
        repository,
        pipeline,
        Watchdog(repository, pipeline, settings.stuck_seconds),
        ControlChannel(meeting, repository, settings.workers),
        asyncio.Lock(),
    )


async def _context(request: Request) -> AppContext:
    state: AppContext = request.app.state.sensorium
    return state


Context = Annotated[AppContext, Depends(_context)]
