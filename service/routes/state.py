"""What the routes share: the settings, the models, the pipeline."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.pipeline import Pipeline
from service.repository import Repository
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class State:
    settings: Settings
    repository: Repository
    pipeline: Pipeline


def _state(request: Request) -> State:
    state: State = request.app.state.sensorium
    return state


Shared = Annotated[State, Depends(_state)]
