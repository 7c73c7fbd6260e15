"""Users who send pictures, texts and recordings to a Sensorium service, and read the answers.

    locust --config loadtests/locust.conf                            short, a table, an exit code
    locust --config loadtests/locust.conf Photos --shape spike       one scenario, in an open loop
    locust --locustfile loadtests/locustfile.py --host URL           the web page, on port 8089

Each class of users is a scenario, all together are mixed traffic; docs/load-testing.md says more.
"""

import logging
import math
import os
import random
import sys
import time
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from locust import constant_throughput, events, log, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import Runner, WorkerRunner
from locust.stats import RequestStats, calculate_response_time_percentile

from loadtests.answers import Judge, Wrong
from loadtests.open_loop import Guest, open_doors, wait_at_doors
from loadtests.payloads import (
    MIXED,
    SHORT,
    Body,
    Modality,
    Payload,
    cut,
    json_texts,
    multipart,
    raw,
    read_payloads,
)
from loadtests.shapes import SHAPES
from loadtests.thresholds import Summary, Thresholds, breaches

PREFIX = "SENSORIUM_LOAD_"
FOLDERS = os.environ.get(f"{PREFIX}PAYLOADS", "")
FILES = (
    [path for folder in FOLDERS.split(os.pathsep) for path in Path(folder).rglob("*")]
    if FOLDERS
    else list(Path("models").glob("*/*/example.*"))
)
FOUND: dict[Modality, list[Payload]] = {
    modality: read_payloads(modality, FILES) for modality in ("image", "text", "audio")
}
if not any(FOUND.values()):
    sys.exit(f"no picture, text or recording to send: set {PREFIX}PAYLOADS to a folder of some")

# Ten users ask for 50 answers a second at most: something that a laptop can give.
turn = constant_throughput(5)
MANY = 4  # payloads in a request that carries several
FAILED = " failed"  # ends the name of a failure, so that its time is not taken for an answer's


class Caller(Guest):
    """Someone who waits for an answer before asking again; in an open loop, who asks once."""

    abstract = True
    connection_timeout = 10.0
    network_timeout = 20.0
    payloads: ClassVar[list[Payload]]

    def wait_time(self) -> float:
        if self.due is not None:
            raise StopUser
        return turn(self)

    def on_stop(self) -> None:
        self.client.client.close()

    def ask(self, path: str, body: Body, judge: Judge) -> None:
        late = 0.0 if self.due is None else time.perf_counter() - self.due
        with self.client.post(
            path,
            data=body.content,  # type: ignore[arg-type]  # bytes are fine; its annotation forgot them
            headers={"Content-Type": body.content_type},
            name=f"{type(self).__name__} {path} {body.form}",
            catch_response=True,
        ) as response:
            response.request_meta["response_time"] += late * 1000
            if response.status_code == 0:  # no answer at all: locust has the reason
                response.request_meta["name"] += FAILED
                return
            try:
                judge.judge(response.status_code, response.content or b"", body.payloads)
            except Wrong as wrong:
                response.request_meta["name"] += FAILED
                response.failure(str(wrong))

    def one(self) -> Payload:
        return random.choice(self.payloads)

    def some(self) -> list[Payload]:
        return random.choices(self.payloads, k=MANY)


class Photos(Caller):
    """Wants pictures named."""

    payloads = FOUND["image"]
    abstract = not payloads
    weight = 3
    labels = Judge("labels")

    @task(3)
    def classify_one(self) -> None:
        self.ask("/v1/image/classify", raw(self.one()), self.labels)

    @task
    def classify_a_form(self) -> None:
        self.ask("/v1/image/classify", multipart([self.one()]), self.labels)


class Texts(Caller):
    """Wants the vectors of texts."""

    abstract = True
    vectors: ClassVar[Judge]

    @task(3)
    def embed_one(self) -> None:
        self.ask("/v1/text/embed", raw(self.one()), self.vectors)

    @task
    def embed_a_form(self) -> None:
        self.ask("/v1/text/embed", multipart(self.some()), self.vectors)

    @task
    def embed_a_list(self) -> None:
        self.ask("/v1/text/embed", json_texts(self.some()), self.vectors)


class ShortTexts(Texts):
    """Of a sentence each."""

    payloads = cut(FOUND["text"], SHORT)
    abstract = not FOUND["text"]
    weight = 3
    vectors = Judge("vector")


class MixedTexts(Texts):
    """From a few words to as many as the model reads, together in its batches."""

    payloads = cut(FOUND["text"], MIXED)
    abstract = not FOUND["text"]
    weight = 2
    vectors = Judge("vector")


class Digits(Caller):
    """Wants recordings named."""

    payloads = FOUND["audio"]
    abstract = not payloads
    weight = 2
    labels = Judge("labels")

    @task(3)
    def classify_one(self) -> None:
        self.ask("/v1/audio/classify", raw(self.one()), self.labels)

    @task
    def classify_a_form(self) -> None:
        self.ask("/v1/audio/classify", multipart(self.some()), self.labels)


def add_options(parser: LocustArgumentParser, **_: Any) -> None:
    """Each may also be a variable in the environment: `--p95-ms` is SENSORIUM_LOAD_P95_MS."""
    known = {f"{PREFIX}PAYLOADS"}

    def add(name: str, **rest: Any) -> None:
        variable = f"{PREFIX}{name.upper()}"
        known.add(variable)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, env_var=variable, include_in_web_ui=False, **rest)

    add("shape", choices=sorted(SHAPES), help="an open loop for so long as --run-time says")
    add("peak", type=float, default=20.0, help="the shape's callers a second, at most")
    for field in fields(Thresholds):
        add(field.name, type=float, default=field.default, help="fail a run that does not keep it")
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            parser.error(f"there is no {name}; there are {', '.join(sorted(known))}")


def prepare(environment: Environment, runner: Runner, **_: Any) -> None:
    wait_at_doors(runner)
    options = environment.parsed_options
    assert options is not None
    if options.shape and not isinstance(runner, WorkerRunner):
        if not options.run_time:
            sys.exit("--shape needs --run-time: a shape has an end")
        open_doors(environment, options.shape, options.peak, options.run_time)
        options.run_time = None  # the shape ends the run


def judge_run(environment: Environment, **_: Any) -> None:
    """Decide the exit code."""
    runner = environment.runner
    if runner is None or isinstance(runner, WorkerRunner):
        return
    thresholds = Thresholds(
        **{
            field.name: getattr(environment.parsed_options, field.name)
            for field in fields(Thresholds)
        }
    )
    found = breaches(summarise(environment.stats), thresholds)
    for breach in found:
        logging.error("threshold not kept: %s", breach)
    if found:
        environment.process_exit_code = 1
    elif not (runner.exceptions or log.unhandled_greenlet_exception):
        environment.process_exit_code = 0


def summarise(stats: RequestStats) -> Summary:
    """Locust's own count: its times are rounded to two digits."""
    times: Counter[int] = Counter()
    for entry in stats.entries.values():
        if not entry.name.endswith(FAILED):
            times.update(entry.response_times)
    answers = times.total()
    return Summary(
        answers=answers,
        failures=stats.num_requests - answers,
        seconds=(stats.last_request_timestamp or math.inf) - stats.start_time,
        p95_ms=calculate_response_time_percentile(times, answers, 0.95),
        p99_ms=calculate_response_time_percentile(times, answers, 0.99),
    )


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(prepare)
events.quitting.add_listener(judge_run)
