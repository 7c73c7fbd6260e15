"""FastAPI + onnxruntime: a request is a thread, and nothing is batched.

uvicorn loadtests.compare.servers.fastapi:app
"""

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from loadtests.compare.servers.models import ALL


class Label(BaseModel):
    label: str
    score: float


class Labels(BaseModel):
    labels: list[Label]


class Vector(BaseModel):
    vector: list[float]


app = FastAPI()
models = {name: model() for name, model in ALL.items()}


@app.post("/photo")
async def classify_photo(request: Request) -> Labels:
    answer = await run_in_threadpool(models["photo"].answer, await request.body())
    return Labels.model_validate(answer)


@app.post("/digit")
async def classify_digit(request: Request) -> Labels:
    answer = await run_in_threadpool(models["digit"].answer, await request.body())
    return Labels.model_validate(answer)


@app.post("/text")
async def embed_text(request: Request) -> Vector:
    answer = await run_in_threadpool(models["text"].answer, await request.body())
    return Vector.model_validate(answer)
