"""Metadata of the server and its models, in the formats of the protocol and of Triton."""

from typing import Any, Literal, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import JSONResponse

from service.api.context import Context
from service.api.problems import V2_RESPONSES
from service.api.v2.datatypes import DATATYPES, Datatype
from service.api.v2.forms import TENSORS, Form, TensorForm, find_form, shape_of
from service.control.repository import Repository
from service.runtime.tensors import TensorSpec
from service.settings import Provider
from service.version import VERSION

router = APIRouter(tags=["v2"], responses=V2_RESPONSES)

T = TypeVar("T", bound="Ready")

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
)


class ServerMetadata(BaseModel):
    name: Literal["sensorium"] = "sensorium"
    version: str = VERSION
    extensions: tuple[str, ...] = EXTENSIONS


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool


class ModelReady(Ready):
    name: str


class TensorMetadata(BaseModel):
    name: str
    datatype: Datatype
    shape: list[int]  # -1 is any size; the first is the number of items


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


@router.get("/v2")
async def server_metadata() -> ServerMetadata:
    """The server's name, version and protocol extensions."""
    return ServerMetadata()


@router.get("/v2/health/live")
async def live() -> Live:
    """The process answers."""
    return Live(live=True)


@router.get("/v2/health/ready", responses={503: {"model": Ready}})
async def ready(context: Context) -> Ready:
    """Whether loading has ended, and at least one model and all required models serve."""
    return _or_503(Ready(ready=context.repository.ready))


@router.get("/v2/models/{name}/ready", responses={503: {"model": ModelReady}})
@router.get("/v2/models/{name}/versions/{version}/ready", responses={503: {"model": ModelReady}})
async def model_ready(name: str, context: Context, version: str | None = None) -> ModelReady:
    """Whether the model, or this version of it, accepts requests."""
    repository = context.repository
    entry = repository.find(name.removesuffix(TENSORS), version)
    serves = entry.served is not None and not repository.draining
    return _or_503(ModelReady(name=name, ready=serves))


@router.get("/v2/models/{name}")
@router.get("/v2/models/{name}/versions/{version}")
async def model_metadata(name: str, context: Context, version: str | None = None) -> ModelMetadata:
    """A model's inputs and outputs: files and answers, or as `name:tensors` the graph's tensors."""
    form = find_form(context.repository, name, version)
    return ModelMetadata(
        name=form.name,
        versions=_versions(context.repository, form),
        platform=_platform(form),
        inputs=[_describe(name, spec) for name, spec in form.inputs.items()],
        outputs=[_describe(name, spec) for name, spec in form.outputs.items()],
    )


@router.get("/v2/models/{name}/config")
@router.get("/v2/models/{name}/versions/{version}/config")
async def model_config(name: str, context: Context, version: str | None = None) -> dict[str, Any]:
    """A model's configuration in Triton's format: tensors, batching and instances."""
    form = find_form(context.repository, name, version)
    settings, model = context.settings, form.served.model
    on_gpu = model.provider is not Provider.CPU
    return {
        "name": form.name,
        "platform": _platform(form),
        "backend": "onnxruntime",
        "version_policy": {"all": {}},
        "max_batch_size": settings.max_items,  # of a request; a batch can be smaller
        "input": [
            {**_declare(name, spec), "optional": name in form.optional}
            for name, spec in form.inputs.items()
        ],
        "output": [_declare(name, spec) for name, spec in form.outputs.items()],
        "dynamic_batching": {
            "preferred_batch_size": [model.manifest.batching.max_batch],
            "max_queue_delay_microseconds": 0,
            "default_queue_policy": {"max_queue_size": settings.max_queue},
        },
        "instance_group": [
            {
                "name": form.name,
                "kind": "KIND_GPU" if on_gpu else "KIND_CPU",
                "count": settings.lanes_per_model,
            }
        ],
        "default_model_filename": model.graph.file,
    }


def _or_503(document: T) -> T:
    if document.ready:
        return document
    return JSONResponse(document.model_dump(), 503)  # type: ignore[return-value]


def _versions(repository: Repository, form: Form) -> list[str]:
    name = form.served.model.manifest.name
    return [entry.version for entry in repository.versions(name) if entry.served]


def _platform(form: Form) -> str:
    return "onnxruntime_onnx" if isinstance(form, TensorForm) else "sensorium"


def _describe(name: str, spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(name=name, datatype=DATATYPES[spec.dtype], shape=shape_of(spec))


def _declare(name: str, spec: TensorSpec) -> dict[str, Any]:
    """A tensor in Triton's configuration, which omits the batch dimension."""
    datatype = DATATYPES[spec.dtype].replace("BYTES", "STRING")
    return {"name": name, "data_type": f"TYPE_{datatype}", "dims": shape_of(spec)[1:]}
