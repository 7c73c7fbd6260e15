"""MLServer: a custom runtime with adaptive batching, asked by the Open Inference Protocol.

mlserver start FOLDER, with a `model-settings.json` for each model
"""

import json
from io import BytesIO

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from loadtests.compare.servers.models import ALL, Answer


class Peer(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self.model = ALL[self.name]()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        [given] = payload.inputs
        files = self.decode(given, default_codec=Base64Codec)
        contents = [file.encode() if isinstance(file, str) else file for file in files]
        answers = self.model.predict([self.model.decode(BytesIO(c)) for c in contents])
        return InferenceResponse(model_name=self.name, outputs=[_encode(answers)])


def _encode(answers: list[Answer]) -> ResponseOutput:
    """Answers as one tensor: float32[N, width], or a JSON text for each."""
    if "vector" in answers[0]:
        vectors = np.array([answer["vector"] for answer in answers], np.float32)
        return NumpyCodec.encode_output("vector", vectors)
    texts = [json.dumps(answer["labels"]) for answer in answers]
    return StringCodec.encode_output("labels", texts)
