"""What an operator may change, each setting by an environment variable `SENSORIUM_<NAME>`."""

from enum import StrEnum
from functools import cached_property
from pathlib import Path

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.limits import InputLimits, core_budget

INPUT = InputLimits()
MOST_TIMEOUT_MS = 100_000


class Provider(StrEnum):
    """Where models run. `auto` takes the best there is; the others insist."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


class Precision(StrEnum):
    """Which of a model's graphs runs. `auto` takes the first; the others prefer theirs."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Settings(BaseSettings):
    """The settings of one service process; 0 stands for "by this machine's cores"."""

    model_config = SettingsConfigDict(env_prefix="SENSORIUM_", frozen=True)

    models: Path = Field(Path("models"), description="The folder of model folders.")
    provider: Provider = Field(Provider.AUTO, description="Where models run.")
    precision: Precision = Field(Precision.AUTO, description="Which of a model's graphs runs.")
    workers: PositiveInt = Field(1, description="Server processes, each with a copy of the models.")
    lanes: NonNegativeInt = Field(0, description="Batches in flight per model.")
    threads: NonNegativeInt = Field(0, description="onnxruntime's threads for one batch.")
    lone_threads: NonNegativeInt = Field(
        0, description="The same for a batch beside which nothing else is computed."
    )
    decode_threads: NonNegativeInt = Field(0, description="Threads that decode files.")
    max_queue: PositiveInt = Field(512, description="Items that may wait for one model.")
    max_wait_ms: PositiveInt = Field(
        750, description="A request that would wait longer is refused at once."
    )
    max_body_bytes: PositiveInt = Field(64 * 2**20, description="Bytes of one request's body.")
    body_seconds: PositiveFloat = Field(
        20.0, description="Seconds within which a request's body must arrive."
    )
    max_items: PositiveInt = Field(256, description="Items in one request.")
    max_pixels: PositiveInt = Field(INPUT.pixels, description="Pixels of one picture.")
    max_audio_seconds: PositiveFloat = Field(INPUT.seconds, description="Seconds of one recording.")
    max_text_bytes: PositiveInt = Field(INPUT.text_bytes, description="Bytes of one text.")
    timeout_ms: PositiveInt = Field(
        30_000, le=MOST_TIMEOUT_MS, description="Deadline of a request that brings no X-Timeout-Ms."
    )
    stuck_seconds: PositiveFloat = Field(
        8.0, description="A batch that takes longer is given up, and its lane replaced."
    )
    drain_seconds: PositiveFloat = Field(
        10.0, description="How long queued work may take to finish at shutdown."
    )

    @property
    def input_limits(self) -> InputLimits:
        return InputLimits(self.max_pixels, self.max_audio_seconds, self.max_text_bytes)

    @cached_property
    def cores_per_worker(self) -> int:
        return max(1, core_budget() // self.workers)

    @property
    def lanes_per_model(self) -> int:
        """Two where the cores allow it: while one batch is answered, the next one computes."""
        return self.lanes or min(2, self.cores_per_worker)

    @property
    def threads_per_lane(self) -> int:
        """So that workers x lanes x threads are the cores that there really are."""
        return self.threads or max(1, self.cores_per_worker // self.lanes_per_model)

    @property
    def threads_alone(self) -> int:
        return self.lone_threads or self.cores_per_worker

    @property
    def decoders(self) -> int:
        return self.decode_threads or self.cores_per_worker
