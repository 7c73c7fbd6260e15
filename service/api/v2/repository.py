"""Management: models come, go and share requests, in the words of Triton's repository extension."""

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
from service.control.repository import ModelState, can_do, check_uses
from service.control.routing import LATEST, Number, Policy, Routing
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
    ready: bool = False  # only those that serve


class IndexEntry(BaseModel):
    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str  # why it is not ready; or why what lies in its folder now was refused


class NoParameters(Strict):
    """A model's configuration is its manifest: none is taken here."""


class LoadRequest(Strict):
    parameters: NoParameters = NoParameters()


class UnloadParameters(Strict):
    unload_dependents: bool = False  # the heads that take its vectors, too


class UnloadRequest(Strict):
    parameters: UnloadParameters = UnloadParameters()


class VersionQuery(Strict):
    version: Number | None = None  # without one, all


class DefaultsRequest(Strict):
    defaults: dict[Use, Name]  # image/classify, text/embed, ... -> a model


class DefaultModels(BaseModel):
    defaults: dict[str, str]  # that were set here
    effective: dict[str, str]  # with those of the settings, and models that stand alone


class Done(BaseModel):
    """An empty object: it is done, in every worker."""


def _body(model: type[BaseModel]) -> dict[str, object]:
    """An optional JSON body, of whatever content type: Triton's clients send none."""
    return examples.document(model, required=False)


@router.post("/index", openapi_extra=_body(IndexRequest))
async def list_repository(request: Request, context: Context) -> list[IndexEntry]:
    """Every version of every model, and whether it serves."""
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
    """Look at a model's folder again and load what is new or has changed, or one version of it."""
    deadline = _deadline(request)
    await read_document(request, LoadRequest, context.settings, optional=True)
    version = query.version
    there = await asyncio.to_thread((context.settings.models / name / (version or "")).is_dir)
    known = any(entry.name == name for entry in context.repository.entries())
    if not there and (version or not known):
        raise NotFound(f"there is no folder {name}/{version}" if version else f"no folder {name}")

    def edit(policy: Policy) -> Policy:
        versions = context.repository.wanted(name, policy) | {version} if version else None
        return policy.model_copy(update={"versions": versions, "loads": policy.loads + 1})

    reasons = (await context.workers.change({name: edit}, deadline)).get(name, {})
    if not there:
        raise NotFound(f"there is no folder {name} any more: the model is out of service")
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
    """Take a model, or one version of it, out of service when its requests are answered."""
    deadline = _deadline(request)
    asked = await read_document(request, UnloadRequest, context.settings, optional=True)
    known = {entry.version for entry in context.repository.versions(name)}
    leaving = {context.repository.find(name, query.version).version} if query.version else known
    heads = context.repository.dependents(name, leaving)
    if heads and not asked.parameters.unload_dependents:
        raise BadRequest(
            f"{', '.join(heads)} would have no encoder; unload_dependents takes them out as well"
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
    """Which version of a model a request gets."""
    context.repository.versions(name)
    return context.repository.policy(name).routing


@router.put("/models/{name}/routing", openapi_extra=examples.document(Routing))
async def set_routing(name: Name, request: Request, context: Context) -> Routing:
    """Aliases of versions, their weights, and a shadow, in the place of all before."""
    deadline = _deadline(request)
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
    """Which model answers requests that name none, by what they ask for."""
    repository = context.repository
    return DefaultModels(defaults=repository.defaults.chosen, effective=repository.default_uses())


@router.put("/defaults", openapi_extra=examples.document(DefaultsRequest))
async def set_defaults(request: Request, context: Context) -> DefaultModels:
    """Let these models answer requests that name none, in the place of all set before."""
    deadline = _deadline(request)
    asked = await read_document(request, DefaultsRequest, context.settings)
    check_uses(asked.defaults)
    for use, name in asked.defaults.items():
        serving = [entry.served for entry in context.repository.versions(name) if entry.served]
        if serving and not any(can_do(served.model, use) for served in serving):
            raise Unsupported(f"{name} is made for something else than {use}")
    await context.workers.set_defaults(asked.defaults, deadline)
    return await get_defaults(context)


def _deadline(request: Request) -> float:
    """When all workers must have followed: loading takes longer than answering."""
    return deadline_of(request, MAX_TIMEOUT_MS)
