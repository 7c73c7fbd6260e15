"""What the routes share: the settings, the models, the pipeline."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.pipeline import Pipeline
from service.repository import Repository
from service.settings import Settings
from service.watch import Watch


@dataclass(frozen=True, slots=True)
class State:
    settings: Settings
    repository: Repository
    pipeline: Pipeline
    watch: Watch


def build_state(settings: Settings) -> State:
    """Raises:
    OperatorError: there is no folder of models.
    """
    repository, pipeline = Repository(settings), Pipeline(settings.decoders)
    return State(
        settings,
        repository,
        pipeline,
        Watch(repository, pipeline, settings.stuck_seconds),
    )


async def _state(request: Request) -> State:
    state: State = request.app.state.sensorium
    return state


Shared = Annotated[State, Depends(_state)]
