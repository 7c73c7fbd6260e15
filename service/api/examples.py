"""Examples: what the OpenAPI document shows of requests and answers."""

from typing import Any

from pydantic import BaseModel

from service.model.manifest import Kind, Modality

MEDIA = {
    "image": tuple(
        f"image/{kind}"
        for kind in ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif", "heic", "x-icon")
    ),
    "audio": ("audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "audio/aiff"),
    "text": ("text/plain",),
}
ITEM_BASE64 = {
    "type": "object",
    "required": ["base64"],
    "additionalProperties": False,
    "properties": {"base64": {"type": "string", "contentEncoding": "base64"}},
}

DATA_URI = {"type": "string", "pattern": "^data:[^,]*,"}


def _answer(model: str, **result: object) -> dict[str, Any]:
    return {"model": model, "version": "1", "results": [{"index": 0, "status": "ok", **result}]}


def _labels(*pairs: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in pairs]


IMAGE_LABELS = _answer("efficientnet-lite0", labels=_labels(("tabby", 0.61), ("Egyptian cat", 0.2)))
AUDIO_LABELS = _answer("spoken-digits", labels=_labels(("seven", 0.97), ("one", 0.01)))
TEXT_LABELS = _answer("all-minilm-l6-v2", labels=_labels(("travel", 0.88), ("cooking", 0.12)))
VECTOR = _answer("all-minilm-l6-v2", vector=[0.021, -0.043, 0.008])
SIMILARITY = {"model": "all-minilm-l6-v2", "version": "1", "similarities": [[0.83, 0.04]]}


PARTS = {
    "image": {"type": "string", "format": "binary"},
    "text": {"type": "string"},
    "audio": {"type": "string", "format": "binary"},
}


def request(kind: Kind) -> dict[str, Any]:
    """The request bodies of a route: raw, multipart or JSON; several files only as multipart."""
    if kind == "multimodal":
        schema = {"type": "object", "additionalProperties": False, "properties": PARTS}
        content: dict[str, Any] = {"multipart/form-data": {"schema": schema}}
    else:
        content = _bodies(kind)
    return {"requestBody": {"required": True, "content": content}}


def _bodies(modality: Modality) -> dict[str, Any]:
    item: dict[str, Any] = {"oneOf": [ITEM_BASE64, DATA_URI]}
    sample: object = {"base64": "UklGRiQAAABXQVZF..."}
    if modality == "text":
        item, sample = {"oneOf": [{"type": "string"}, ITEM_BASE64]}, "a quiet flat near the sea"
    raw = {"schema": {"type": "string", "format": "binary"}}
    if modality == "text":
        raw = {"schema": {"type": "string"}}
    content: dict[str, Any] = dict.fromkeys(MEDIA[modality], raw)
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
