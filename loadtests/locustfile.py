"""Users who send images, texts and audio to a Sensorium service, and check the answers.

    locust --config loadtests/locust.conf                            short, a table, an exit code
    locust --config loadtests/locust.conf Photos --shape spike       one scenario, in an open loop
    locust --config loadtests/locust.conf --model leaves             one model
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
from collections.abc import Sequence
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
from loadtests.models import FIRST_CHOICE, NoModel, Target, choose_targets, list_models
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
    sys.exit(f"no image, text or audio to send: set {PREFIX}PAYLOADS to a folder of some")

# Ten users ask for 50 answers a second at most: something that a laptop can give.
turn = constant_throughput(5)
MANY = 4  # payloads in a request that carries several
FAILED = " failed"  # ends the name of a failure, so that its time is not taken for an answer's


class Caller(Guest):
    """Waits for an answer before the next request; in an open loop, sends one request."""

    abstract = True
    connection_timeout = 10.0
    network_timeout = 20.0
    modality: ClassVar[Modality]
    payloads: ClassVar[list[Payload]]
    target: ClassVar[Target]
    judge: ClassVar[Judge]

    @classmethod
    def aim(cls, target: Target) -> None:
        cls.target = target
        cls.judge = Judge("labels" if target.task == "classify" else "vector")

    def wait_time(self) -> float:
        if self.due is not None:
            raise StopUser
        return turn(self)

    def on_stop(self) -> None:
        self.client.client.close()

    def ask(self, body: Body) -> None:
        late = 0.0 if self.due is None else time.perf_counter() - self.due
        with self.client.post(
            self.target.path,
            data=body.content,  # type: ignore[arg-type]  # bytes are fine; its annotation forgot them
            headers={"Content-Type": body.content_type},
            name=f"{type(self).__name__} {self.target.route} {body.form}",
            catch_response=True,
        ) as response:
            response.request_meta["response_time"] += late * 1000
            if response.status_code == 0:  # no answer at all: locust has the reason
                response.request_meta["name"] += FAILED
                return
            try:
                self.judge.judge(response.status_code, response.content or b"", body.payloads)
            except Wrong as wrong:
                response.request_meta["name"] += FAILED
                response.failure(str(wrong))

    def one(self) -> Payload:
        return random.choice(self.payloads)

    def some(self) -> list[Payload]:
        return random.choices(self.payloads, k=MANY)


class Photos(Caller):
    """Sends images."""

    modality = "image"
    payloads = FOUND["image"]
    abstract = not payloads
    weight = 3

    @task(3)
    def send_one(self) -> None:
        self.ask(raw(self.one()))

    @task
    def send_a_form(self) -> None:
        self.ask(multipart([self.one()]))


class Texts(Caller):
    """Sends texts."""

    abstract = True
    modality = "text"

    @task(3)
    def send_one(self) -> None:
        self.ask(raw(self.one()))

    @task
    def send_a_form(self) -> None:
        self.ask(multipart(self.some()))

    @task
    def send_a_list(self) -> None:
        self.ask(json_texts(self.some()))


class ShortTexts(Texts):
    """Sends texts of a sentence each."""

    payloads = cut(FOUND["text"], SHORT)
    abstract = not FOUND["text"]
    weight = 3


class MixedTexts(Texts):
    """Sends texts from a few words to as many as the model reads, together in its batches."""

    payloads = cut(FOUND["text"], MIXED)
    abstract = not FOUND["text"]
    weight = 2


class Digits(Caller):
    """Sends audio."""

    modality = "audio"
    payloads = FOUND["audio"]
    abstract = not payloads
    weight = 2

    @task(3)
    def send_one(self) -> None:
        self.ask(raw(self.one()))

    @task
    def send_a_form(self) -> None:
        self.ask(multipart(self.some()))


def add_options(parser: LocustArgumentParser, **_: Any) -> None:
    """Each may also be a variable in the environment: `--p95-ms` is SENSORIUM_LOAD_P95_MS."""
    known = {f"{PREFIX}PAYLOADS"}

    def add(name: str, **rest: Any) -> None:
        variable = f"{PREFIX}{name.upper()}"
        known.add(variable)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, env_var=variable, include_in_web_ui=False, **rest)

    add("model", default="", help="ask these models only, with commas between; one a modality")
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
    aim_scenarios(environment, options.model.replace(",", " ").split())
    if options.shape and not isinstance(runner, WorkerRunner):
        if not options.run_time:
            sys.exit("--shape needs --run-time: a shape has an end")
        open_doors(environment, options.shape, options.peak, options.run_time)
        options.run_time = None  # the shape ends the run


def aim_scenarios(environment: Environment, named: Sequence[str]) -> None:
    """Choose the model for each scenario; with named models, drop scenarios without one."""
    scenarios = [kind for kind in environment.user_classes if issubclass(kind, Caller)]
    try:
        targets = choose_targets(list_models(environment.host or ""), named)
    except NoModel as error:
        if named:
            sys.exit(f"--model: {error}")
        logging.warning("%s; requests name no model", error)
        targets = {modality: Target(modality, task) for modality, task in FIRST_CHOICE.items()}
    kept = [scenario for scenario in scenarios if scenario.modality in targets]
    if not kept:
        sys.exit(f"--model: no scenario that runs sends what {' and '.join(named)} can take")
    for scenario in kept:
        scenario.aim(targets[scenario.modality])
        logging.info("%s: %s", scenario.__name__, scenario.target)
    environment.user_classes[:] = kept


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
