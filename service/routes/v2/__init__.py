"""The Open Inference Protocol v2 with Triton's extensions, for clients that others wrote."""

from fastapi import APIRouter

from service.routes.problems import V2_RESPONSES
from service.routes.v2 import infer, models, statistics

router = APIRouter(responses=V2_RESPONSES)
for part in (statistics, models, infer):  # /v2/models/stats before a model of that name
    router.include_router(part.router)
