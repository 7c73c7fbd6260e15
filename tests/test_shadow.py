"""A shadow that fails is told of, and disturbs nobody."""

import math
from pathlib import Path

import numpy as np
import pytest

from service.control.shadow import _compare
from service.inference.pipeline import Pipeline
from service.inference.servable import serve
from service.metrics import SHADOWED
from service.model.model import load
from service.model.types import Result
from service.settings import Settings
from tests.conftest import write_colours

pytestmark = pytest.mark.anyio


async def test_a_shadow_that_fails_is_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(models=tmp_path)
    served = serve(load(write_colours(tmp_path), settings), settings)
    pipeline = Pipeline(decoders=1)
    given = Result({}, answer=np.zeros(3, np.float32))
    failed = SHADOWED.labels("colours", "1", "failed")
    before = failed._value.get()
    nothing_to_read = {}  # type: ignore[var-annotated]
    await _compare(pipeline, (served, "classify"), served, nothing_to_read, given, math.inf)
    assert failed._value.get() == before + 1
    assert "colours version 1 failed as a shadow" in caplog.text
    await served.batcher.drain(10)
    pipeline.close()
