"""BentoML with adaptive batching: `batchable=True`, a list in and a list out.

bentoml serve loadtests.compare.servers.bentoml:Peer
"""

from pathlib import Path

import bentoml
from PIL.Image import Image

from loadtests.compare.servers.models import Answer, Digits, Photos, Texts

BATCH = {"batchable": True, "max_batch_size": 16, "max_latency_ms": 60_000}


@bentoml.service(traffic={"timeout": 60})
class Peer:
    def __init__(self) -> None:
        self.photos, self.texts, self.digits = Photos(), Texts(), Digits()

    @bentoml.api(**BATCH)  # type: ignore[untyped-decorator]
    def photo(self, files: list[Image]) -> list[Answer]:
        return self.photos.predict([self.photos.pixels(file) for file in files])

    @bentoml.api(**BATCH)  # type: ignore[untyped-decorator]
    def digit(self, files: list[Path]) -> list[Answer]:
        return self.digits.predict([self.digits.decode(file) for file in files])

    @bentoml.api(**BATCH)  # type: ignore[untyped-decorator]
    def text(self, texts: list[str]) -> list[Answer]:
        return self.texts.predict([self.texts.tokens(text) for text in texts])
