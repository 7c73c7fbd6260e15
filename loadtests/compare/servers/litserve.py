"""LitServe: a worker process for each model, batches of what came within 10 ms.

python -m loadtests.compare.servers.litserve --port PORT
"""

import argparse
import base64
from collections.abc import Sequence
from io import BytesIO

import litserve

from loadtests.compare.servers.models import ALL, Answer, Array


class Peer(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(max_batch_size=16, batch_timeout=0.01, api_path=f"/{name}")
        self.name = name

    def setup(self, device: str) -> None:  # noqa: ARG002  # LitServe passes it by name
        self.model = ALL[self.name]()

    def decode_request(self, request: dict[str, str]) -> Array:
        if "text" in request:
            return self.model.decode(BytesIO(request["text"].encode()))
        return self.model.decode(BytesIO(base64.b64decode(request["data"])))

    def batch(self, inputs: Sequence[Array]) -> Sequence[Array]:
        return inputs  # texts have lengths of their own: the model pads them

    def predict(self, samples: Sequence[Array]) -> list[Answer]:
        return self.model.predict(samples)

    def unbatch(self, output: list[Answer]) -> list[Answer]:
        return output

    def encode_response(self, output: Answer) -> Answer:
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    server = litserve.LitServer([Peer(name) for name in ALL], accelerator="cpu")
    server.run(host="127.0.0.1", port=parser.parse_args().port, generate_client_file=False)
