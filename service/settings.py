"""What an operator may change, each setting by an environment variable `SENSORIUM_<NAME>`."""

import os
import re
from difflib import get_close_matches
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import OperatorError
from service.limits import AFFINITY, InputLimits, core_budget, has_all_its_cores

INPUT = InputLimits()
PREFIX = "SENSORIUM_"
# Not the service's, but in its environment: the client's key, the load test's settings, and what
# Kubernetes tells of every Service whose name begins with sensorium.
FOREIGN = re.compile(r"API_KEY|LOAD_\w+|(\w+_)?(SERVICE_HOST|SERVICE_PORT|PORT)(_\w+)?")
MAX_TIMEOUT_MS = 100_000


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


class LogFormat(StrEnum):
    """How a line of the log looks."""

    TEXT = "text"
    JSON = "json"


def _split(given: object) -> object:
    return given.replace(",", " ").split() if isinstance(given, str) else given


def _pair(given: object) -> object:
    """`image/classify=NAME,text/embed=OTHER`, as a mapping."""
    if not isinstance(given, str):
        return given
    pairs = [pair.partition("=") for pair in given.replace(",", " ").split()]
    if not all(name for _, _, name in pairs):
        raise ValueError("write KIND/TASK=MODEL, with commas between")
    return {use: name for use, _, name in pairs}


# What a request that names no model asks for
Use = Annotated[
    str,
    Field(pattern=r"^(image|text|audio|multimodal)/(classify|embed)$|^(image|text|audio)/preview$"),
]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]


class Settings(BaseSettings):
    """The settings of one service process; 0 lanes or threads: by this machine's cores."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, allow_inf_nan=False)

    models: Path = Field(Path("models"), description="The folder of model folders.")
    required_models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Models, with commas between, without which the service is not ready."
    )
    default_models: Annotated[dict[Use, str], NoDecode, BeforeValidator(_pair)] = Field(
        {},
        description="The models of requests that name none: image/classify=NAME, with commas"
        " between. What PUT /v2/repository/defaults sets goes before.",
    )
    provider: Provider = Field(Provider.AUTO, description="Where models run.")
    precision: Precision = Field(Precision.AUTO, description="Which of a model's graphs runs.")
    workers: PositiveInt = Field(1, description="Server processes, each with a copy of the models.")
    lanes: NonNegativeInt = Field(0, description="Batches in flight per model.")
    threads: NonNegativeInt = Field(0, description="onnxruntime's threads for one batch.")
    exclusive_threads: NonNegativeInt = Field(
        0, description="The same for a batch that had no other beside it for 50 ms."
    )
    pin_lanes: bool = Field(
        True,
        description="Whether lanes, and the threads of a batch that is alone, keep to a core each.",
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
    max_held_bytes: PositiveInt = Field(
        512 * 2**20, description="Bytes of the bodies of all requests that are being answered."
    )
    max_items: PositiveInt = Field(256, description="Items in one request.")
    max_pixels: PositiveInt = Field(INPUT.pixels, description="Pixels of one picture.")
    max_audio_seconds: PositiveFloat = Field(INPUT.seconds, description="Seconds of one recording.")
    max_text_bytes: PositiveInt = Field(INPUT.text_bytes, description="Bytes of one text.")
    cache_bytes: NonNegativeInt = Field(
        0, description="Bytes in which one worker keeps what it computed of files; 0: none."
    )
    timeout_ms: PositiveInt = Field(
        30_000, le=MAX_TIMEOUT_MS, description="Deadline of a request that brings no X-Timeout-Ms."
    )
    stuck_seconds: PositiveFloat = Field(
        8.0,
        description="A batch that takes longer is given up, and its lane replaced;"
        " one of a slow model only after five times what is expected of it.",
    )
    drain_seconds: PositiveFloat = Field(
        10.0, description="How long queued work may take to finish at shutdown."
    )
    stop_seconds: PositiveFloat = Field(
        30.0, description="Seconds that requests under way may take to finish at shutdown."
    )
    stall_seconds: PositiveFloat = Field(
        20.0, description="A connection whose client makes no progress for so long is closed."
    )
    keys: Path | None = Field(None, description="The file of API keys; without one, none is asked.")
    client_concurrency: NonNegativeInt = Field(
        0, description="Requests that one caller may have inside one worker at once; 0: any number."
    )
    client_rate: NonNegativeFloat = Field(
        0.0, description="Requests a second that one worker takes from one caller; 0: any number."
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Origins, with commas between, whose pages may ask; * for all."
    )
    log_format: LogFormat = Field(LogFormat.TEXT, description="How a line of the log looks.")
    log_share: float = Field(
        0.0, ge=0, le=1, description="Share of requests that get a line in the log; 1: all."
    )
    state: Path | None = Field(
        None,
        description="The folder that keeps what is wanted of the models;"
        " without one, it is forgotten when the server ends.",
    )
    model_poll_seconds: NonNegativeFloat = Field(
        0.0, description="How often to look for new model folders; 0: only when told to."
    )

    @property
    def input_limits(self) -> InputLimits:
        return InputLimits(self.max_pixels, self.max_audio_seconds, self.max_text_bytes)

    @property
    def longest_stop_seconds(self) -> float:
        """When a worker that was told to end exits, whatever it still does."""
        return self.stop_seconds + self.drain_seconds + 5

    @property
    def window(self) -> int:
        """Items of one request that are asked for at once: half a queue, for others may come."""
        return max(1, self.max_queue // 2)

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
    def threads_exclusive(self) -> int:
        return self.exclusive_threads or self.cores_per_worker

    @property
    def owns_cores(self) -> bool:
        """Whether threads may keep to cores: neither other workers nor a quota divide them."""
        able = self.pin_lanes and hasattr(os, "sched_setaffinity")
        return able and self.workers == 1 and has_all_its_cores()

    @property
    def one_lane_per_core(self) -> bool:
        """Whether lanes keep to cores; where they are fewer or more, the kernel moves them."""
        lanes = self.lanes_per_model
        return self.owns_cores and self.threads_per_lane == 1 and lanes == len(AFFINITY)

    @property
    def exclusive_cores(self) -> tuple[int, ...]:
        """A core for each thread of a batch that is alone; none where the kernel places them.

        Fewer threads than cores are left to it: it knows which cores are two halves of one.
        """
        cores, threads = tuple(sorted(AFFINITY)), self.threads_exclusive
        return cores if self.owns_cores and self.threads_per_lane < threads == len(cores) else ()

    @property
    def decoders(self) -> int:
        return self.decode_threads or self.cores_per_worker


def read_settings() -> Settings:
    """The settings of this process's environment, all of whose `SENSORIUM_*` are known.

    Raises:
        OperatorError: one is no setting, or has a value that cannot be.
    """
    for variable in os.environ:
        name = variable.upper().removeprefix(PREFIX)
        if name != variable.upper() and not FOREIGN.fullmatch(name):
            _check_known(variable, name.lower())
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"{PREFIX}{first['loc'][0]}".upper()
        raise OperatorError(f"{variable}: {first['msg']}, not {first['input']!r}") from error


def check_models(folder: Path) -> None:
    """Raises:
    OperatorError: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise OperatorError(f"{PREFIX}MODELS: there is no folder {folder}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise OperatorError(f"{PREFIX}MODELS: {folder} cannot be read: permission denied")


def _check_known(variable: str, name: str) -> None:
    if name not in Settings.model_fields:
        near = get_close_matches(name, Settings.model_fields, 1)
        hint = "".join(f" ({PREFIX}{known.upper()} is)" for known in near)
        raise OperatorError(f"{variable} is no setting{hint}; docs/reference.md lists them")
