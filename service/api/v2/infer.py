"""Inference: tensors in, tensors out, for both forms of a model."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from service.api import examples
from service.api.context import AppContext, Context
from service.api.problems import V2_RESPONSES
from service.api.request.body import read_body
from service.api.request.disconnect import while_there
from service.api.responses import MAX_LABELS, deadline_of
from service.api.v2 import codec, compression
from service.api.v2.datatypes import DATATYPES
from service.api.v2.forms import Form, find_form, shape_of
from service.errors import BadRequest, TooLarge
from service.inference.admission import check, enter
from service.model.tasks.classify import best
from service.runtime.tensors import Array

router = APIRouter(tags=["v2"], responses=V2_RESPONSES)

LARGE_BYTES = 65_536  # a larger body is parsed in a decoder thread, not on the event loop


BODY = examples.document(codec.Question)
BODY["requestBody"]["content"]["application/json"]["example"] = {
    "inputs": [
        {
            "name": "text",
            "shape": [1, 1],
            "datatype": "BYTES",
            "data": ["a quiet flat near the sea"],
        }
    ]
}
BODY["requestBody"]["content"]["application/octet-stream"] = {
    "schema": {"type": "string", "format": "binary"}
}


@router.post("/v2/models/{name}/infer", response_model=codec.Answer, openapi_extra=BODY)
@router.post(
    "/v2/models/{name}/versions/{version}/infer", response_model=codec.Answer, openapi_extra=BODY
)
async def infer(
    name: str, request: Request, context: Context, version: str | None = None
) -> Response:
    """A model's outputs for files, or as `name:tensors` for the inputs of its graph."""
    arrived = asyncio.get_running_loop().time()
    deadline = deadline_of(request, context.settings.timeout_ms)
    form = find_form(context.repository, name, version, request.state.request_id)
    check(form.served.admissions, deadline)
    asked = await _read(request, context, deadline)
    if asked.question.id:  # the protocol's request id decides which version answers
        form = find_form(context.repository, name, version, asked.question.id)
    if microseconds := asked.question.parameters.timeout:
        deadline = arrived + microseconds / 1e6
    request.scope["state"]["manifests"] = [form.served.model.manifest]  # for the access log
    classes = _choose_outputs(form, asked.question)
    items = _count_items(form, asked.inputs, context.settings.max_items)
    window = context.settings.window
    with enter(form.served.admissions, min(items, window), deadline):
        work = form.answer(context.pipeline, asked.inputs, classes, deadline, window)
        found = await while_there(request, form.served.admissions, work)
    tensors = {
        output: _highest(found[output], count, form.labels(output)) if count else found[output]
        for output, count in classes.items()
    }
    answered = str(form.served.model.manifest.version)
    body, header_length = codec.write(asked.question, form.name, answered, tensors)
    return await _respond(request, context, body, header_length, deadline)


async def _read(request: Request, context: AppContext, deadline: float) -> codec.Asked:
    body = await read_body(request, context.settings, deadline)
    read = partial(codec.read, headers=request.headers)
    if len(body) > LARGE_BYTES:
        return await context.pipeline.decode(read, body, deadline)
    return read(body)


async def _respond(
    request: Request, context: AppContext, body: bytes, header_length: int | None, deadline: float
) -> Response:
    headers = {"Content-Type": "application/json", "Vary": "Accept-Encoding"}
    if header_length is not None:
        headers["Content-Type"] = "application/octet-stream"
        headers[codec.HEADER_LENGTH] = str(header_length)
    encoding = compression.choose(request.headers.get("accept-encoding", ""))
    if encoding and len(body) >= compression.WORTH_BYTES:
        headers["Content-Encoding"] = encoding
        pack = partial(compression.pack, encoding=encoding)
        body = await context.pipeline.decode(pack, body, deadline)
    return Response(body, headers=headers)


def _choose_outputs(form: Form, question: codec.Question) -> dict[str, int | None]:
    """The requested outputs, each with its number of top classes; None for the whole output.

    Raises:
        BadRequest: the model has no such output, or the output has no classes.
    """
    if not question.outputs:
        return dict.fromkeys(form.outputs)
    classes: dict[str, int | None] = {}
    for asked in question.outputs:
        if asked.name not in form.outputs:
            raise BadRequest(
                f"{form.name} has no output {asked.name}; it has: {', '.join(form.outputs)}"
            )
        if asked.name in classes:
            raise BadRequest(f"output {asked.name} is requested twice")
        count = asked.parameters.classification
        if count and form.outputs[asked.name].dtype in ("object", "bool"):
            raise BadRequest(f"output {asked.name} has no numbers, so it has no classification")
        classes[asked.name] = count
    return classes


def _count_items(form: Form, tensors: Mapping[str, Array], most: int) -> int:
    """The number of items in the tensors.

    Raises:
        BadRequest: a tensor does not fit the form, or one is missing or unknown.
        TooLarge: there are more than `most` items.
    """
    if unknown := sorted(set(tensors) - set(form.inputs)):
        raise BadRequest(f"{form.name} has no input {unknown[0]}; it has: {', '.join(form.inputs)}")
    if missing := sorted(set(form.inputs) - set(tensors) - set(form.optional)):
        raise BadRequest(f"{form.name} also needs input {missing[0]}")
    for name, tensor in tensors.items():
        spec = form.inputs[name]
        # Clients often send files and texts in the shape [N] instead of [N, 1].
        shape = (*tensor.shape, 1) if tensor.dtype == object and tensor.ndim == 1 else tensor.shape
        if tensor.dtype.name != spec.dtype or not spec.fits(shape):
            wanted = f"{DATATYPES[spec.dtype]}{shape_of(spec)}"
            given = f"{DATATYPES[tensor.dtype.name]}{list(tensor.shape)}"
            raise BadRequest(f"input {name} must be {wanted}, not {given}")
    batches = {len(tensor) for tensor in tensors.values()}
    if len(batches) > 1 or 0 in batches:
        raise BadRequest("all inputs must have the same number of items, one or more")
    [items] = batches
    if items > most:
        raise TooLarge(f"the request has {items} items; the limit is {most}")
    return items


def _highest(tensor: Array, count: int, labels: Sequence[str]) -> Array:
    """`value:index:label` of the highest values of each row: bytes[N, count] or smaller.

    Raises:
        BadRequest: a value is NaN or infinity.
        TooLarge: the request asks for too many labels.
    """
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise BadRequest("the output holds NaN or infinity, so it has no classification")
    if len(tensor) * min(count, tensor[0].size) > MAX_LABELS:
        raise TooLarge(f"the request asks for more than {MAX_LABELS:,} labels")
    rows = [
        [_class(row[index], index, labels) for index in best(row.astype(np.float64), count)]
        for row in tensor.reshape(len(tensor), -1)
    ]
    return np.array(rows, object)


def _class(value: Any, index: int, labels: Sequence[str]) -> bytes:
    shown = f"{value:f}" if isinstance(value, np.floating) else str(value)
    return ":".join([shown, str(index), *labels[index : index + 1]]).encode()
