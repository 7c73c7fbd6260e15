"""What is wanted of the models is kept, or a call says why not; no call waits for ever."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from service.control.repository import Repository
from service.control.routing import Policy
from service.settings import Settings
from tests.conftest import write_colours
from tests.servers import PROJECT, free_port, plain_environment, served
from tests.test_management import ask, change, index, route, wait_for, workers
from tests.test_workers import workers as worker_processes

BOTH = pytest.mark.parametrize("count", [1, 2], ids=["one worker", "two workers"])


@contextmanager
def serving(tmp_path: Path, count: int, versions: int = 1) -> Iterator[tuple[str, Path, Path]]:
    """The server's URL, its models and its state; `colours` and `others` serve."""
    models, state = tmp_path / "models", tmp_path / "state"
    for version in range(1, versions + 1):
        write_colours(models, version=version)
    write_colours(models, "others")
    with served(models, workers=count, env={"SENSORIUM_STATE": str(state)}) as url:
        wait_for(lambda: len(workers(state)) == count)
        yield url, models, state


def ready(url: str, name: str) -> set[str]:
    return {version for version, (state, _) in index(url, name).items() if state == "READY"}


@BOTH
def test_calls_at_the_same_moment_lose_nothing(tmp_path: Path, count: int) -> None:
    versions = [str(version) for version in range(2, 6)]
    with serving(tmp_path, count, versions=5) as (url, _, _), ThreadPoolExecutor(4) as pool:
        for act, left in (("unload", {"1"}), ("load", {"1", *versions})) * 3:
            calls = [f"colours/{act}?version={version}" for version in versions]
            answers = list(pool.map(lambda call: change(url, call), calls))
            assert [answer.status_code for answer in answers] == [200] * 4
            assert {frozenset(ready(url, "colours")) for _ in range(8)} == {frozenset(left)}


@BOTH
def test_an_emptied_state_folder_is_filled_again(tmp_path: Path, count: int) -> None:
    with serving(tmp_path, count) as (url, _, state):
        assert change(url, "others/unload").status_code == 200
        for deleted in (True, False):
            shutil.rmtree(state)
            if deleted:  # a volume that is not mounted looks like this
                answer = change(url, "colours/unload")
                assert (answer.status_code, state.exists()) == (503, False)
                assert "the state folder is gone" in answer.json()["error"]
                assert ready(url, "colours") == {"1"}
            state.mkdir()
            assert change(url, "colours/unload").status_code == 200
            wait_for(lambda: len(workers(state)) == count)
            assert {frozenset(ready(url, "colours")) for _ in range(8)} == {frozenset()}
            assert set(json.loads((state / "models.json").read_text())) == {"colours", "others"}
            assert change(url, "colours/load").status_code == 200
            assert {frozenset(ready(url, "colours")) for _ in range(8)} == {frozenset({"1"})}
            assert ready(url, "others") == set()


@BOTH
def test_a_damaged_state_is_not_the_client_s_fault(tmp_path: Path, count: int) -> None:
    with serving(tmp_path, count) as (url, _, state):
        assert route(url, "colours", aliases={"stable": "1"}).status_code == 200
        file = state / "models.json"
        good = file.read_bytes()
        for bad in (b"{", b"", b"[]", b"\xff", b'{"colours": {"loads": "many"}}'):
            file.write_bytes(bad)
            answer = change(url, "colours/unload")
            assert (answer.status_code, file.read_bytes()) == (503, bad)
            assert "models.json is damaged" in answer.json()["error"]
            assert str(state) not in answer.json()["error"]
        file.unlink()
        file.mkdir()
        assert "models.json cannot be read" in change(url, "colours/unload").json()["error"]
        assert ready(url, "colours") == {"1"}
        file.rmdir()
        file.write_bytes(good)
        assert change(url, "colours/unload").status_code == 200
        assert ready(url, "colours") == set()


@BOTH
def test_a_full_disk_changes_nothing(tmp_path: Path, count: int) -> None:
    with serving(tmp_path, count) as (url, _, state):
        assert change(url, "others/unload").status_code == 200
        before = (state / "models.json").read_bytes()
        for worker in workers(state):  # where each of them writes what is to become the file
            (state / f"models.json.{worker}").symlink_to("/dev/full")
        answer = change(url, "colours/unload")
        assert answer.status_code == 503
        assert "models.json cannot be written: No space left" in answer.json()["error"]
        assert (state / "models.json").read_bytes() == before
        assert {frozenset(ready(url, "colours")) for _ in range(8)} == {frozenset({"1"})}
        wait_for(lambda: change(url, "colours/unload").status_code == 200)  # each removed its link
        assert {frozenset(ready(url, "colours")) for _ in range(8)} == {frozenset()}


def test_a_stopped_worker_is_named_and_follows_later(tmp_path: Path) -> None:
    with serving(tmp_path, 2) as (url, _, state):
        stopped = workers(state)[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            address = f"{url}/v2/repository/models/colours/unload"
            headers = {"X-Timeout-Ms": "1000"}
            with httpx.Client(trust_env=False, timeout=60) as client:
                answer = client.post(address, headers=headers)
                assert answer.status_code == 504
                assert f"worker {stopped} did not apply the change" in answer.json()["error"]
                routing = f"{url}/v2/repository/models/others/routing"
                again = client.put(routing, json={"aliases": {"stable": "1"}}, headers=headers)
                assert again.status_code == 504
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert change(url, "others/load").status_code == 200
        assert {ask(url, "colours").status_code for _ in range(20)} == {503}
        assert {ask(url, "others", "stable").status_code for _ in range(20)} == {200}


def test_calls_leave_no_sockets_open(tmp_path: Path) -> None:
    with serving(tmp_path, 2) as (url, _, state):
        (state / "999999.socket").write_bytes(b"")  # of a worker that was killed

        def held() -> int:
            return sum(
                len(psutil.Process(worker).net_connections("unix")) for worker in workers(state)
            )

        change(url, "others/load")
        assert not (state / "999999.socket").exists()
        before = held()
        for _ in range(10):
            assert change(url, "others/load").status_code == 200
        wait_for(lambda: held() <= before)


@BOTH
def test_a_deleted_model_leaves_every_listing(tmp_path: Path, count: int) -> None:
    with serving(tmp_path, count) as (url, models, _):
        write_colours(models, "odd").rename(models / "odd/²")
        assert change(url, "odd/load").status_code == 422
        for name, call, status in (("odd", "load", 404), ("others", "load", 404)):
            shutil.rmtree(models / name)
            answer = change(url, f"{name}/{call}")
            assert answer.status_code == status
            assert "no folder" in answer.json()["error"]
            assert change(url, f"{name}/{call}").status_code == 404
            with httpx.Client(base_url=url, trust_env=False) as client:
                for path in ("/v1/models", "/readyz", "/metrics"):
                    assert name not in client.get(path).text
            assert index(url, name) == {}
        write_colours(models, "others")
        assert change(url, "others/load").status_code == 200
        shutil.rmtree(models / "others")
        assert change(url, "others/unload").status_code == 200
        assert index(url, "others") == {}


@pytest.mark.anyio
async def test_a_model_waits_for_no_other_one_s_folder(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_colours(models)
    write_colours(models, "slow")
    repository = Repository(Settings(models=models))
    await repository.open()
    asked = Policy(loads=1)
    async with repository._changing["slow"]:  # its folder is being loaded
        wanted = {"colours": Policy(versions=frozenset()), "slow": asked}
        await repository.apply(wanted, repository.defaults, ["colours"])
        assert repository.versions("colours")[0].state == "unloaded"
        assert repository._applied.get("slow") != asked
    await repository.apply(wanted, repository.defaults, ["slow"])
    assert repository._applied["slow"] == asked
    await repository.close()


@BOTH
def test_long_paths_of_state_and_temporary_files_work(tmp_path: Path, count: int) -> None:
    models, long = tmp_path / "models", tmp_path / ("x" * 120) / ("y" * 120)
    write_colours(models)
    long.mkdir(parents=True)
    for name in ("SENSORIUM_STATE", "TMPDIR"):
        with served(models, workers=count, env={name: str(long)}) as url:
            assert change(url, "colours/unload").status_code == 200
            assert {ask(url, "colours").status_code for _ in range(8)} == {503}


@pytest.mark.parametrize("state", ["/proc/sys", "/proc/sys/nowhere", "/dev/null", "/dev/null/x"])
def test_a_state_folder_that_cannot_be_written_ends_the_start(tmp_path: Path, state: str) -> None:
    write_colours(tmp_path / "models")
    command = [sys.executable, "-m", "bentoml", "serve", "service.app:Sensorium"]
    result = subprocess.run(
        [*command, "--host", "127.0.0.1", "--port", str(free_port())],
        cwd=PROJECT,
        env={
            **plain_environment(),
            "BENTOML_HOME": str(tmp_path),
            "BENTOML_DO_NOT_TRACK": "True",
            "SENSORIUM_MODELS": str(tmp_path / "models"),
            "SENSORIUM_STATE": state,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"SENSORIUM_STATE: {state}: " in result.stderr.splitlines()[-1]


@BOTH
def test_workers_end_with_the_process_that_started_them(tmp_path: Path, count: int) -> None:
    models, port = tmp_path / "models", free_port()
    write_colours(models)
    with served(models, workers=count, port=port) as url:
        mine = worker_processes()
        assert len(mine) == count
        [starter] = {process.ppid() for process in mine}
        psutil.Process(starter).kill()
        _, alive = psutil.wait_procs(mine, 60)
        assert alive == []
        with served(models, workers=count, port=port):
            assert ask(url, "colours").status_code == 200
