"""Users who send pictures, texts and recordings to a Sensorium service, and read the answers.

    locust --config loadtests/locust.conf                            short, a table, an exit code
    locust --locustfile loadtests/locustfile.py --host URL           the web page, on port 8089

LOADTEST_PAYLOADS names folders with real files (*.jpg, *.wav, *.txt, *.csv with a column `text`),
separated as in PATH. Without it, the examples that lie beside the models are sent.
"""

import os
import random
import sys
from pathlib import Path
from typing import ClassVar

from locust import FastHttpUser, constant_throughput, task

from loadtests.answers import Judge, Wrong
from loadtests.payloads import (
    Body,
    Modality,
    Payload,
    json_texts,
    multipart,
    raw,
    read_payloads,
)

FOLDERS = os.environ.get("LOADTEST_PAYLOADS", "")
FILES = (
    [path for folder in FOLDERS.split(os.pathsep) for path in Path(folder).rglob("*")]
    if FOLDERS
    else list(Path("models").glob("*/*/example.*"))
)
PAYLOADS: dict[Modality, list[Payload]] = {
    modality: read_payloads(modality, FILES) for modality in ("image", "text", "audio")
}
if not any(PAYLOADS.values()):
    sys.exit("no picture, text or recording to send: set LOADTEST_PAYLOADS to a folder of some")

# Ten users ask for 50 answers a second at most: something that a laptop can give.
REQUESTS_A_SECOND = 5
MANY = 4  # payloads in a request that carries several


class Caller(FastHttpUser):
    """Someone who waits for an answer before asking again."""

    abstract = True
    wait_time = constant_throughput(REQUESTS_A_SECOND)
    network_timeout = 30.0
    modality: ClassVar[Modality]

    def ask(self, path: str, body: Body, judge: Judge) -> None:
        headers = {"Content-Type": body.content_type}
        with self.client.post(
            path,
            data=body.content,  # type: ignore[arg-type]  # bytes are fine; its annotation forgot them
            headers=headers,
            name=f"{path} {body.form}",
            catch_response=True,
        ) as response:
            if response.status_code == 0:  # no answer at all: locust has the reason
                return
            try:
                judge.judge(response.status_code, response.content or b"", body.payloads)
            except Wrong as wrong:
                response.failure(str(wrong))

    def one(self) -> Payload:
        return random.choice(PAYLOADS[self.modality])

    def some(self) -> list[Payload]:
        return random.choices(PAYLOADS[self.modality], k=MANY)


class ImageUser(Caller):
    """Wants pictures named."""

    modality = "image"
    abstract = not PAYLOADS["image"]
    weight = 3
    labels = Judge("labels")

    @task(3)
    def classify_one(self) -> None:
        self.ask("/v1/image/classify", raw(self.one()), self.labels)

    @task
    def classify_a_form(self) -> None:
        self.ask("/v1/image/classify", multipart([self.one()]), self.labels)


class TextUser(Caller):
    """Wants the vectors of texts."""

    modality = "text"
    abstract = not PAYLOADS["text"]
    weight = 5
    vectors = Judge("vector")

    @task(3)
    def embed_one(self) -> None:
        self.ask("/v1/text/embed", raw(self.one()), self.vectors)

    @task
    def embed_a_form(self) -> None:
        self.ask("/v1/text/embed", multipart(self.some()), self.vectors)

    @task
    def embed_a_list(self) -> None:
        self.ask("/v1/text/embed", json_texts(self.some()), self.vectors)


class AudioUser(Caller):
    """Wants recordings named."""

    modality = "audio"
    abstract = not PAYLOADS["audio"]
    weight = 2
    labels = Judge("labels")

    @task(3)
    def classify_one(self) -> None:
        self.ask("/v1/audio/classify", raw(self.one()), self.labels)

    @task
    def classify_a_form(self) -> None:
        self.ask("/v1/audio/classify", multipart(self.some()), self.labels)
