"""Management: load, unload and route models, in the format of Triton's repository extension."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from service.api import examples
from service.api.context import Context
from service.api.problems import V2_RESPONSES
from service.api.request.payloads import read_document
from service.api.request.strict import Strict
from service.api.responses import deadline_of
from service.control.channel import Edit
from service.control.routing import LATEST, Number, Policy, Routing
from service.control.selection import ModelState, can_do, check_uses
from service.errors import BadModel, BadRequest, NotFound, Unsupported
from service.model.specs import Name
from service.settings import MAX_TIMEOUT_MS, Use

router = APIRouter(prefix="/v2/repository", tags=["management"], responses=V2_RESPONSES)

STATES: dict[ModelState, Literal["READY", "LOADING", "UNAVAILABLE"]] = {
    "ready": "READY",
    "loading": "LOADING",
    "failed": "UNAVAILABLE",
    "unloaded": "UNAVAILABLE",
}


class IndexRequest(Strict):
    ready: bool = False  # list only models that serve


class IndexEntry(BaseModel):
    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str  # why it is not ready, or why its changed folder was refused


class NoParameters(Strict):
    """Empty: a model's configuration is its manifest, so a request cannot override it."""


class LoadRequest(Strict):
    parameters: NoParameters = NoParameters()


class UnloadParameters(Strict):
    unload_dependents: bool = False  # also unload the heads on this encoder


class UnloadRequest(Strict):
    parameters: UnloadParameters = UnloadParameters()


class VersionQuery(Strict):
    version: Number | None = None  # None: all versions


class DefaultsRequest(Strict):
    defaults: dict[Use, Name]  # image/classify, text/embed, ... -> a model


class DefaultModels(BaseModel):
    defaults: dict[str, str]  # set by this route
    effective: dict[str, str]  # with the settings, and with models that are the only choice


class Done(BaseModel):
    """An empty object: every worker has made the change."""


def _body(model: type[BaseModel]) -> dict[str, object]:
    """An optional JSON body of any content type: Triton's clients send no content type."""
    return examples.document(model, required=False)


@router.post("/index", openapi_extra=_body(IndexRequest))
async def list_repository(request: Request, context: Context) -> list[IndexEntry]:
    """All versions of all models, with their states."""
    asked = await read_document(request, IndexRequest, context.settings, optional=True)
    return [
        IndexEntry(
            name=entry.name,
            version=entry.version,
            state=STATES[entry.state],
            reason=entry.reason or ("unloaded" if entry.state == "unloaded" else ""),
        )
        for entry in context.repository.entries()
        if entry.state == "ready" or not asked.ready
    ]


@router.post("/models/{name}/load", openapi_extra=_body(LoadRequest))
async def load(
    name: Name, request: Request, context: Context, query: Annotated[VersionQuery, Query()]
) -> Done:
    """Load the new and changed versions of a model, or one version."""
    deadline = _management_deadline(request)
    await read_document(request, LoadRequest, context.settings, optional=True)
    version = query.version
    there = await asyncio.to_thread((context.settings.models / name / (version or "")).is_dir)
    known = any(entry.name == name for entry in context.repository.entries())
    if not there and (version or not known):
        raise NotFound(f"no folder {name}/{version}" if version else f"no folder {name}")

    def edit(policy: Policy) -> Policy:
        versions = context.repository.wanted(name, policy) | {version} if version else None
        return policy.model_copy(update={"versions": versions, "loads": policy.loads + 1})

    reasons = (await context.workers.change({name: edit}, deadline)).get(name, {})
    if not there:
        raise NotFound(f"no folder {name} any more, so the model was unloaded")
    refused = [
        reason for number, reason in reasons.items() if version in (None, number) or number == "-"
    ]
    if refused:
        raise BadModel("; ".join(refused))
    return Done()


@router.post("/models/{name}/unload", openapi_extra=_body(UnloadRequest))
async def unload(
    name: Name, request: Request, context: Context, query: Annotated[VersionQuery, Query()]
) -> Done:
    """Unload a model, or one version, after its requests in flight are answered."""
    deadline = _management_deadline(request)
    asked = await read_document(request, UnloadRequest, context.settings, optional=True)
    known = {entry.version for entry in context.repository.versions(name)}
    leaving = {context.repository.find(name, query.version).version} if query.version else known
    heads = context.repository.dependents(name, leaving)
    if heads and not asked.parameters.unload_dependents:
        raise BadRequest(
            f"{', '.join(heads)} need this encoder; set unload_dependents to unload them as well"
        )

    def edit(policy: Policy) -> Policy:
        staying = (
            context.repository.wanted(name, policy) - leaving if query.version else frozenset()
        )
        return policy.model_copy(update={"versions": staying})

    def empty(policy: Policy) -> Policy:
        return policy.model_copy(update={"versions": frozenset()})

    edits: dict[str, Edit] = {**dict.fromkeys(heads, empty), name: edit}
    await context.workers.change(edits, deadline)
    return Done()


@router.get("/models/{name}/routing")
async def get_routing(name: Name, context: Context) -> Routing:
    """A model's aliases, weights and shadow."""
    context.repository.versions(name)
    return context.repository.policy(name).routing


@router.put("/models/{name}/routing", openapi_extra=examples.document(Routing))
async def set_routing(name: Name, request: Request, context: Context) -> Routing:
    """Replace a model's aliases, weights and shadow."""
    deadline = _management_deadline(request)
    routing = await read_document(request, Routing, context.settings)
    known = {entry.version for entry in context.repository.versions(name)}
    named = [*routing.aliases.values(), *routing.weights]
    if routing.shadow:
        named.append(routing.shadow.version)
    if unknown := {routing.number(version) for version in named} - known - {LATEST}:
        raise NotFound(f"{name} has no version {min(unknown)}; it has: {', '.join(sorted(known))}")
    edit: Edit = lambda policy: policy.model_copy(update={"routing": routing})  # noqa: E731
    await context.workers.change({name: edit}, deadline)
    return routing


@router.get("/defaults")
async def get_defaults(context: Context) -> DefaultModels:
    """The default models by modality and task: they answer requests that name no model."""
    repository = context.repository
    return DefaultModels(defaults=repository.defaults.chosen, effective=repository.default_uses())


@router.put("/defaults", openapi_extra=examples.document(DefaultsRequest))
async def set_defaults(request: Request, context: Context) -> DefaultModels:
    """Replace the default models."""
    deadline = _management_deadline(request)
    asked = await read_document(request, DefaultsRequest, context.settings)
    check_uses(asked.defaults)
    for use, name in asked.defaults.items():
        serving = [entry.served for entry in context.repository.versions(name) if entry.served]
        if serving and not any(can_do(served.model, use) for served in serving):
            raise Unsupported(f"{name} does not support {use}")
    await context.workers.set_defaults(asked.defaults, deadline)
    return await get_defaults(context)


def _management_deadline(request: Request) -> float:
    return deadline_of(request, MAX_TIMEOUT_MS)  # loading takes longer than inference
