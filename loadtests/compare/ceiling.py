"""The ceiling: decode, run and interpret in a loop on all cores, without HTTP.

It has to be Sensorium's own decoder, and the load tests import nothing of the product. So the loop
is a program of its own, and is run as the service is: as a process, in the project's environment.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests.compare.outcome import Outcome, percentiles
from loadtests.compare.processes import plain_environment
from loadtests.compare.works import Work

# Texts of like length are the best that a batch can be: so many are sorted at a time.
POOL = 8

PROGRAM = """
import itertools, json, resource, sys, time
from pathlib import Path
from service.model.model import load
from service.settings import Settings

folder, batch, pool, seconds, *files = sys.argv[1:]
batch, pool = int(batch), int(pool)
model = load(Path(folder), Settings(lanes=1, threads=1, precision="fp32"))
task = next(iter(model.tasks.values()))
payloads = itertools.cycle([Path(file).read_bytes() for file in files])
print("ready", flush=True)
sys.stdin.readline()
times, answers = [], 0
before = resource.getrusage(resource.RUSAGE_SELF)
start = last = time.perf_counter()
while last - start < float(seconds):
    samples = sorted((model.decode(next(payloads)) for _ in range(pool)), key=lambda s: s.cost)
    for first in range(0, pool, batch):
        for row in model.run(samples[first : first + batch]):
            task.interpret(row)
            answers += 1
    now = time.perf_counter()
    times.append(now - last)
    last = now
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "answers": answers,
    "seconds": last - start,
    "times": times,
    "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
}))
"""


class CeilingFailed(Exception):
    """The loop ended with an error."""


def run_in_process(
    work: Work,
    files: Sequence[Path],
    models: Path,
    *,
    loops: int,
    batch: int,
    seconds: float,
) -> tuple[Outcome, float]:
    """The answers of so many loops at the same time, and the CPU seconds that they took.

    Percentiles are those of one pass: with batch 1, of one answer.

    Raises:
        CeilingFailed: with the program's own words.
    """
    pool = 1 if batch == 1 else batch * POOL
    settings = [models / work.model / "1", batch, pool, seconds]
    command = [sys.executable, "-c", PROGRAM, *map(str, [*settings, *files])]
    # numpy's products of matrices would start threads of their own, which wait for busy cores.
    environment = {**plain_environment(), "OPENBLAS_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(loops)
    ]
    try:
        for loop in running:
            _wait_until_ready(loop)
        for loop in running:  # all begin at the same time
            assert loop.stdin is not None
            loop.stdin.write("go\n")
            loop.stdin.flush()
        results = [json.loads(_finish(loop)) for loop in running]
    finally:
        for loop in running:
            loop.kill()
            loop.wait()
    times = [time for result in results for time in result["times"]]
    rate = sum(result["answers"] / result["seconds"] for result in results)
    answers = sum(result["answers"] for result in results)
    outcome = Outcome(
        answers=answers,
        errors=0,
        seconds=answers / rate,
        **percentiles(times),
        client_cpu_seconds=0.0,
    )
    return outcome, sum(result["cpu_seconds"] for result in results)


def _wait_until_ready(loop: subprocess.Popen[str]) -> None:
    assert loop.stdout is not None
    if loop.stdout.readline() != "ready\n":
        raise CeilingFailed(loop.communicate()[1])


def _finish(loop: subprocess.Popen[str]) -> str:
    output, errors = loop.communicate()
    if loop.returncode:
        raise CeilingFailed(errors)
    return output
