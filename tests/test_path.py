"""The path of one image request through the service, as docs/architecture.md describes it."""

import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from service.limits import core_budget
from tests.conftest import png, write_colours
from tests.test_routes import serving

ROOT = Path(__file__).parents[1]
SERVICE = f"{ROOT / 'service'}/"
MAX_FILES = 23  # of these, ten decode, choose a batch, bound or count


@pytest.mark.anyio
async def test_an_image_request_passes_few_files_on_two_threads(tmp_path: Path) -> None:
    write_colours(tmp_path)
    frames: set[FrameType] = set()  # kept, so that a coroutine that goes on is known again
    threads: dict[str, set[str]] = {}

    def trace(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and frame not in frames and file.startswith(SERVICE):
            frames.add(frame)
            name = file.removeprefix(SERVICE)
            threads.setdefault(threading.current_thread().name, set()).add(name)

    threading.setprofile(trace)  # lanes start with the models
    try:
        async with serving(tmp_path, lanes=core_budget()) as client:
            for _ in range(2):  # the first request fills caches
                threads.clear()
                sys.setprofile(trace)
                answer = await client.post("/v1/image/classify", content=png((250, 0, 0)))
                sys.setprofile(None)
    finally:
        threading.setprofile(None)
    assert answer.status_code == 200
    passed = set().union(*threads.values())
    idle = {"metrics.py", "inference/batching.py"}  # lanes that look for work and find none
    busy = [name for name, files in threads.items() if not files <= idle]
    assert len(busy) == 2, "the event loop and a lane: two hops, there and back"
    assert len(passed) <= MAX_FILES, sorted(passed)
    described = (ROOT / "docs/architecture.md").read_text()
    assert not [name for name in passed if f"`{name}`" not in described]
