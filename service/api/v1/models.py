"""Models: which there are, and what each says of itself. The list has OpenAI's shape."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from service.api.context import Context
from service.api.problems import RESPONSES
from service.control.routing import VersionName
from service.control.selection import Entry, ModelState

router = APIRouter(tags=["models"], responses=RESPONSES)


class ModelCard(BaseModel):
    """One model: the version that serves by default, or the one that was asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int  # seconds since 1970: when its manifest was written
    owned_by: str
    version: str
    versions: list[str]
    state: ModelState
    reason: str | None = None
    default_for: list[str]  # requests that name no model: image/classify, text/embed, ...
    manifest: dict[str, Any] | None = None  # all that it declares, once it is ready
    precision: str | None = None  # of the graph that runs here
    provider: str | None = None
    labels: list[str] | None = None


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class VersionQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: VersionName | None = None


@router.get("/v1/models", response_model_exclude_none=True)
async def list_models(context: Context) -> ModelList:
    """Every model, its default version; labels are left to `/v1/models/{name}`."""
    names = sorted({entry.name for entry in context.repository.entries()})
    return ModelList(data=[_card(context, context.repository.find(name)) for name in names])


@router.get("/v1/models/{name}", response_model_exclude_none=True)
async def get_model(
    name: str, context: Context, query: Annotated[VersionQuery, Query()]
) -> ModelCard:
    """One model, with its labels."""
    entry = context.repository.find(name, query.version)
    card = _card(context, entry)
    if entry.served and entry.served.model.labels:
        card.labels = list(entry.served.model.labels)
    return card


def _card(context: Context, entry: Entry) -> ModelCard:
    defaults = context.repository.default_uses()
    card = ModelCard(
        id=entry.name,
        created=entry.created,
        owned_by="sensorium",
        version=entry.version,
        versions=[other.version for other in context.repository.versions(entry.name)],
        state=entry.state,
        reason=entry.reason,
        default_for=[use for use, name in defaults.items() if name == entry.name],
    )
    if entry.served:
        model = entry.served.model
        card.manifest = model.manifest.model_dump(mode="json", exclude_none=True)
        card.precision = model.graph.precision
        card.provider = model.provider
    return card
