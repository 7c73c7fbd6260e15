"""The contract: the OpenAPI document of all routes, and who may call them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from service.api.middleware.auth import HEALTH
from service.api.problems import InferenceError
from service.version import VERSION

SUMMARY = "One service for pictures, text and sound: POST a file, get labels or vectors."
DESCRIPTION = (
    "Send files as they are: the whole body, parts of a form, or base64 in JSON. The service "
    "decodes and preprocesses them and answers with what the model says. Without `model`, the only "
    "model that is able answers. Every refusal is a problem document (RFC 9457) with a `code`, and "
    "a `detail` that says what to change; under `/v2` it has that protocol's shape."
)
TAGS = {
    "files": "A file in, labels, scores or a vector out.",
    "openai": "Embeddings as OpenAI's clients ask for them.",
    "previews": "What a model sees of a file.",
    "models": "What is served.",
    "v2": "The Open Inference Protocol, with Triton's extensions.",
    "management": "Models come and go.",
    "health": "For probes and for Prometheus.",
}
# Where the operator hands out keys, any route but health wants one; the empty entry: where not.
KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
WITH_A_KEY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"header": []}]


def contract(api: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the routes, made at the first call."""
    if api.openapi_schema is None:
        document = get_openapi(
            title="Sensorium",
            version=VERSION,
            summary=SUMMARY,
            description=DESCRIPTION,
            routes=api.routes,
            servers=[{"url": "/"}],
            contact={"name": "The developers of Sensorium"},
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
            tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        )
        document["components"]["securitySchemes"] = KEYS
        # `Problem` is there already, as a part of answers to several items.
        inference_error = TypeAdapter(InferenceError).json_schema()
        document["components"]["schemas"][InferenceError.__name__] = inference_error
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path in HEALTH else WITH_A_KEY
        api.openapi_schema = document
    return api.openapi_schema
