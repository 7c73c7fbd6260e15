"""What the routes share: the settings, the models, the pipeline."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from service.control.channel import Workers
from service.control.repository import Repository
from service.control.shadow import Shadows
from service.control.watchdog import Watch
from service.inference.pipeline import Pipeline
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class State:
    settings: Settings
    repository: Repository
    pipeline: Pipeline
    watch: Watch
    workers: Workers
    previews: asyncio.Lock  # one at a time: they are for people, and requests wait for decoders


def build_state(settings: Settings, meeting: Path) -> State:
    """What one worker has; `meeting` is the folder where it finds the others.

    Raises:
        OperatorError: there is no folder of models.
    """
    repository = Repository(settings)
    follow = Shadows(repository).follow
    pipeline = Pipeline(settings.decoders, follow, settings.cache_bytes)
    return State(
        settings,
        repository,
        pipeline,
        Watch(repository, pipeline, settings.stuck_seconds),
        Workers(meeting, repository, settings.workers),
        asyncio.Lock(),
    )


async def _state(request: Request) -> State:
    state: State = request.app.state.sensorium
    return state


Shared = Annotated[State, Depends(_state)]
