"""Background work that fails is logged and restarted, or ends the worker."""

import asyncio
import logging
import signal
from types import FrameType

import pytest

from service import supervision
from service.errors import OperatorError
from service.supervision import end_worker, supervise

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("error", [ValueError("an unforeseen fault"), OperatorError("no space")])
async def test_work_that_fails_is_logged_and_restarted(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervision, "PAUSE", 0.0)
    runs: list[int] = []

    async def work() -> None:
        runs.append(len(runs))
        if len(runs) < 3:
            raise error

    async with asyncio.timeout(10):
        await supervise("polling", work)
    assert runs == [0, 1, 2]
    assert caplog.text.count("polling failed") == 2
    assert str(error) in caplog.text
    assert ("Traceback" in caplog.text) == (not isinstance(error, OperatorError))


async def test_cancelled_work_is_not_restarted() -> None:
    runs: list[int] = []

    async def work() -> None:
        runs.append(len(runs))
        await asyncio.Event().wait()

    task = supervise("waiting", work)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert runs == [0]


def test_a_worker_ends_with_one_sentence(caplog: pytest.LogCaptureFixture) -> None:
    got: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        got.append(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        end_worker("no thread can be started")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]
    [record] = caplog.records
    assert record.levelno == logging.CRITICAL
    assert record.getMessage() == "this worker ends: no thread can be started"
