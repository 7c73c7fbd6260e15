"""Examples: what the OpenAPI document shows of requests and answers."""

from typing import Any

from pydantic import BaseModel

from service.model.preprocessing import MODALITIES
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.specs import MULTIMODAL, Kind

ITEM_BASE64 = {
    "type": "object",
    "required": ["base64"],
    "additionalProperties": False,
    "properties": {"base64": {"type": "string", "contentEncoding": "base64"}},
}

DATA_URI = {"type": "string", "pattern": "^data:[^,]*,"}


SIMILARITY = {"model": "all-minilm-l6-v2", "version": "1", "similarities": [[0.83, 0.04]]}


def answer(model: str, **result: object) -> dict[str, Any]:
    """The answer of a model to one item."""
    return {"model": model, "version": "1", "results": [{"index": 0, "status": "ok", **result}]}


def request(kind: Kind) -> dict[str, Any]:
    """The request bodies of a route: raw, multipart or JSON; several files only as multipart."""
    if kind == MULTIMODAL:
        parts = {name: _file(modality) for name, modality in MODALITIES.items()}
        schema = {"type": "object", "additionalProperties": False, "properties": parts}
        content: dict[str, Any] = {"multipart/form-data": {"schema": schema}}
    else:
        content = _bodies(MODALITIES[kind])
    return {"requestBody": {"required": True, "content": content}}


def _file(modality: type[Preprocessor]) -> dict[str, str]:
    return {"type": "string"} if modality.is_text else {"type": "string", "format": "binary"}


def _bodies(modality: type[Preprocessor]) -> dict[str, Any]:
    item: dict[str, Any] = {"oneOf": [ITEM_BASE64, DATA_URI]}
    sample: object = {"base64": "UklGRiQAAABXQVZF..."}
    if modality.is_text:
        item, sample = {"oneOf": [{"type": "string"}, ITEM_BASE64]}, "a quiet flat near the sea"
    content: dict[str, Any] = {
        media_type: {"schema": _file(modality)} for media_type in modality.media_types
    }
    content["multipart/form-data"] = {
        "schema": {
            "type": "object",
            "additionalProperties": {"type": "string", "format": "binary"},
            "minProperties": 1,
        }
    }
    content["application/json"] = {
        "schema": {
            "type": "object",
            "required": ["input"],
            "additionalProperties": False,
            "properties": {"input": {"oneOf": [item, {"type": "array", "items": item}]}},
        },
        "examples": {
            "one": {"value": {"input": sample}},
            "several": {"value": {"input": [sample, sample]}},
        },
    }
    return content


def document(shape: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """The request body of a route that takes one JSON document."""
    content = {"application/json": {"schema": _inlined(shape.model_json_schema())}}
    return {"requestBody": {"required": required, "content": content}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A pydantic schema without references, which OpenAPI would look for elsewhere."""
    parts = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if reference := node.get("$ref"):
                return inline(parts[reference.rpartition("/")[2]])
            return {key: inline(value) for key, value in node.items()}
        return [inline(value) for value in node] if isinstance(node, list) else node

    inlined: dict[str, Any] = inline(schema)
    return inlined


def response(answer: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """The good answer of a route."""
    return {200: {"content": {"application/json": {"example": answer}}}}
