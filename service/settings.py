"""Settings: an operator sets each one with an environment variable `SENSORIUM_<NAME>`."""

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
# Other programs' variables with this prefix: the client's key, the settings of the load test, and
# those that Kubernetes sets for every Service with a name that begins with sensorium.
FOREIGN = re.compile(r"API_KEY|LOAD_\w+|(\w+_)?(SERVICE_HOST|SERVICE_PORT|PORT)(_\w+)?")
MAX_TIMEOUT_MS = 100_000


class Provider(StrEnum):
    """The execution provider. `auto` takes the best available; the others are required."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


class Precision(StrEnum):
    """The preferred graph of a model. `auto` takes the first."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class LogFormat(StrEnum):
    """The format of the log."""

    TEXT = "text"
    JSON = "json"


def _split(given: object) -> object:
    return given.replace(",", " ").split() if isinstance(given, str) else given


def _pair(given: object) -> object:
    """The mapping in `image/classify=NAME,text/embed=OTHER`."""
    if not isinstance(given, str):
        return given
    pairs = [pair.partition("=") for pair in given.replace(",", " ").split()]
    if not all(name for _, _, name in pairs):
        raise ValueError("write KIND/TASK=MODEL, separated by commas")
    return {use: name for use, _, name in pairs}


# A modality and a task; the names are checked when the models are loaded
Use = Annotated[str, Field(pattern=r"^[a-z]+/[a-z]+$")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]


class Settings(BaseSettings):
    """The settings of one process. 0 lanes or threads means: chosen by this machine's cores."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, allow_inf_nan=False)

    models: Path = Field(Path("models"), description="The folder of model folders.")
    required_models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Models, separated by commas; /readyz is 503 without them."
    )
    default_models: Annotated[dict[Use, str], NoDecode, BeforeValidator(_pair)] = Field(
        {},
        description="The models of requests that name none: image/classify=NAME, separated by"
        " commas. PUT /v2/repository/defaults overrides them.",
    )
    provider: Provider = Field(Provider.AUTO, description="The execution provider.")
    precision: Precision = Field(Precision.AUTO, description="The preferred graph of a model.")
    workers: PositiveInt = Field(1, description="Server processes, each with a copy of the models.")
    lanes: NonNegativeInt = Field(
        0, description="Batches of one model in progress at the same time."
    )
    threads: NonNegativeInt = Field(0, description="onnxruntime's threads for one batch.")
    exclusive_threads: NonNegativeInt = Field(
        0, description="Threads for a single item while no other arrived for 50 ms."
    )
    pin_threads: bool = Field(
        True, description="Pins lanes, and the threads of an exclusive run, to a core each."
    )
    decode_threads: NonNegativeInt = Field(0, description="Threads that decode files.")
    max_queue: PositiveInt = Field(512, description="Items that can wait for one model.")
    max_wait_ms: PositiveInt = Field(
        750, description="Requests with a longer expected wait are refused immediately."
    )
    max_body_bytes: PositiveInt = Field(64 * 2**20, description="Bytes of one request's body.")
    body_seconds: PositiveFloat = Field(
        20.0, description="Seconds until a request's body must be complete."
    )
    max_held_bytes: PositiveInt = Field(
        512 * 2**20, description="Bytes of the bodies of all requests in progress."
    )
    max_items: PositiveInt = Field(256, description="Items in one request.")
    max_pixels: PositiveInt = Field(INPUT.pixels, description="Pixels of one image.")
    max_audio_seconds: PositiveFloat = Field(
        INPUT.seconds, description="Seconds of one audio file."
    )
    max_text_bytes: PositiveInt = Field(INPUT.text_bytes, description="Bytes of one text.")
    cache_bytes: NonNegativeInt = Field(
        0, description="Bytes of one worker's result cache; 0: no cache."
    )
    timeout_ms: PositiveInt = Field(
        30_000, le=MAX_TIMEOUT_MS, description="Deadline of requests without X-Timeout-Ms."
    )
    stuck_seconds: PositiveFloat = Field(
        8.0,
        description="A batch that takes longer is abandoned and its lane replaced;"
        " for slow models, only after five times the expected time.",
    )
    drain_seconds: PositiveFloat = Field(
        10.0, description="Seconds for queued work to finish at shutdown."
    )
    stop_seconds: PositiveFloat = Field(
        30.0, description="Seconds for requests in flight to finish at shutdown."
    )
    stall_seconds: PositiveFloat = Field(
        20.0, description="Seconds without progress until a connection is closed."
    )
    keys: Path | None = Field(
        None, description="The file of API keys; authentication is off without it."
    )
    client_concurrency: NonNegativeInt = Field(
        0, description="Requests of one client in progress, per worker; 0: unlimited."
    )
    client_rate: NonNegativeFloat = Field(
        0.0, description="Requests per second of one client, per worker; 0: unlimited."
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Origins whose pages may send requests, separated by commas; * for all."
    )
    log_format: LogFormat = Field(LogFormat.TEXT, description="Format of the log.")
    log_share: float = Field(
        0.0, ge=0, le=1, description="Share of requests in the access log; 1: all."
    )
    state: Path | None = Field(
        None, description="The folder that keeps management changes across restarts."
    )
    model_poll_seconds: NonNegativeFloat = Field(
        0.0, description="Seconds between two checks for changed model folders; 0: never."
    )

    @property
    def input_limits(self) -> InputLimits:
        return InputLimits(self.max_pixels, self.max_audio_seconds, self.max_text_bytes)

    @property
    def longest_stop_seconds(self) -> float:
        """Seconds after a signal to end until a worker exits, even with work left."""
        return self.stop_seconds + self.drain_seconds + 5

    @cached_property
    def window(self) -> int:
        """Items of one request in progress: half a queue, so that other requests fit in."""
        return max(1, self.max_queue // 2)

    @cached_property
    def cores_per_worker(self) -> int:
        return max(1, core_budget() // self.workers)

    @property
    def lanes_per_model(self) -> int:
        """Two if the cores allow it: while one batch is answered, the next one computes."""
        return self.lanes or min(2, self.cores_per_worker)

    @property
    def threads_per_lane(self) -> int:
        """Workers x lanes x threads equals the usable cores."""
        return self.threads or max(1, self.cores_per_worker // self.lanes_per_model)

    @property
    def threads_exclusive(self) -> int:
        return self.exclusive_threads or self.cores_per_worker

    @cached_property
    def owns_cores(self) -> bool:
        """Whether threads can be pinned: no other worker and no quota shares the cores."""
        able = self.pin_threads and hasattr(os, "sched_setaffinity")
        return able and self.workers == 1 and has_all_its_cores()

    @property
    def one_lane_per_core(self) -> bool:
        """Whether lanes are pinned; the kernel places more or fewer lanes than cores."""
        lanes = self.lanes_per_model
        return self.owns_cores and self.threads_per_lane == 1 and lanes == len(AFFINITY)

    @property
    def exclusive_cores(self) -> tuple[int, ...]:
        """A core for each thread of an exclusive run; empty if the kernel places them.

        The kernel places fewer threads than cores, because it knows which cores are hyperthreads.
        """
        cores, threads = tuple(sorted(AFFINITY)), self.threads_exclusive
        return cores if self.owns_cores and self.threads_per_lane < threads == len(cores) else ()

    @property
    def decoders(self) -> int:
        return self.decode_threads or self.cores_per_worker


def read_settings() -> Settings:
    """The settings from this process's environment.

    Raises:
        OperatorError: a `SENSORIUM_*` variable is unknown, or has an invalid value.
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
    OperatorError: the folder is missing or cannot be read.
    """
    if not folder.is_dir():
        raise OperatorError(f"{PREFIX}MODELS: no such folder: {folder}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise OperatorError(f"{PREFIX}MODELS: {folder} cannot be read: permission denied")


def _check_known(variable: str, name: str) -> None:
    if name not in Settings.model_fields:
        near = get_close_matches(name, Settings.model_fields, 1)
        hint = "".join(f" (did you mean {PREFIX}{known.upper()}?)" for known in near)
        raise OperatorError(f"{variable} is not a setting{hint}; docs/reference.md lists them")
