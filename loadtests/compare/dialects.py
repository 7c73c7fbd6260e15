"""Dialects: a payload as each server wants it sent, and an answer as each gives it."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loadtests.compare.works import MODELS, Kind

MEDIA_TYPES: dict[Kind, str] = {"photo": "image/jpeg", "text": "text/plain", "digit": "audio/wav"}
PLAIN_PATHS: dict[Kind, str] = {"photo": "/photo", "text": "/text", "digit": "/digit"}
JSON = "application/json"
BOUNDARY = "d1a6f0c5-no-file-holds-this"

Answer = dict[str, Any]  # {"labels": [{"label", "score"}, ...]} or {"vector": [...]}


@dataclass(frozen=True, slots=True)
class Body:
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to ask over HTTP."""

    name: str
    paths: Mapping[Kind, str]
    encode: Callable[[Kind, bytes], Body]
    read: Callable[[Any], Answer]  # takes the answer's JSON


def _raw(kind: Kind, payload: bytes) -> Body:
    return Body(MEDIA_TYPES[kind], payload)


def _form(kind: Kind, payload: bytes) -> Body:
    """BentoML's batchable endpoints: a list of texts in JSON, or a form with a list of files."""
    if kind == "text":
        return Body(JSON, json.dumps({"texts": [payload.decode()]}).encode())
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="file"\r\n'
        f"Content-Type: {MEDIA_TYPES[kind]}\r\n\r\n"
    )
    content = head.encode() + payload + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Body(f"multipart/form-data; boundary={BOUNDARY}", content)


def _json(kind: Kind, payload: bytes) -> Body:
    """LitServe's example: base64 in JSON."""
    if kind == "text":
        return Body(JSON, json.dumps({"text": payload.decode()}).encode())
    return Body(JSON, json.dumps({"data": base64.b64encode(payload).decode()}).encode())


def _open_inference(kind: Kind, payload: bytes) -> Body:
    text = kind == "text"
    tensor = {
        "name": "file",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"content_type": "str" if text else "base64"},
        "data": [payload.decode() if text else base64.b64encode(payload).decode()],
    }
    return Body(JSON, json.dumps({"inputs": [tensor]}).encode())


def _read_tensor(document: Any) -> Answer:
    [output] = document["outputs"]
    if output["name"] == "vector":
        return {"vector": output["data"]}
    return {"labels": json.loads(output["data"][0])}


SENSORIUM = Dialect(
    "raw",
    {
        "photo": f"/v1/image/classify?model={MODELS['photo']}",
        "text": f"/v1/text/embed?model={MODELS['text']}",
        "digit": f"/v1/audio/classify?model={MODELS['digit']}",
    },
    _raw,
    lambda document: document["results"][0],
)
PLAIN = Dialect("raw", PLAIN_PATHS, _raw, lambda document: document)
FORM = Dialect("form", PLAIN_PATHS, _form, lambda document: document[0])
BASE64 = Dialect("base64", PLAIN_PATHS, _json, lambda document: document)
OPEN_INFERENCE = Dialect(
    "open-inference",
    {kind: f"/v2/models/{kind}/infer" for kind in MODELS},
    _open_inference,
    _read_tensor,
)
