"""The contract is kept: requests made of the OpenAPI document, and answers held against it."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.openapi import media_type
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.api import build_api
from service.api.openapi import TAGS
from service.model.preprocessing import MODALITIES
from tests.conftest import write_small_models
from tests.hostile import FILES, NEIGHBOURS
from tests.servers import served

EXAMPLES = 20  # of each operation
SEED = 20_260_101
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def contents(modality: str) -> st.SearchStrategy[bytes]:
    """Good and hostile files, and bytes that are neither."""
    hostile = [file.content for file in FILES[modality](Random(SEED))]
    return st.one_of(
        st.just(NEIGHBOURS[modality]()), st.sampled_from(hostile), st.binary(max_size=1000)
    )


for modality in ("image", "audio"):
    for kind in MODALITIES[modality].media_types:
        media_type(kind, contents(modality))


contract = schemathesis.openapi.from_dict(build_api().openapi())


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real process with a small model of each modality."""
    with served(write_small_models(tmp_path_factory.mktemp("models"))) as url:
        yield url


def test_the_process_serves_this_contract(url: str) -> None:
    assert httpx.get(f"{url}/openapi.json").json() == contract.raw_schema


def test_every_route_is_under_a_heading_that_is_described_and_each_has_some() -> None:
    paths = contract.raw_schema["paths"].values()
    assert {tag for path in paths for verb in path.values() for tag in verb["tags"]} == set(TAGS)


def test_a_linter_has_nothing_to_say_of_the_contract(tmp_path: Path) -> None:
    if shutil.which("redocly") is None:
        pytest.skip("redocly is not installed (npm's package @redocly/cli)")
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(contract.raw_schema))
    result = subprocess.run(["redocly", "lint", document], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "warning" not in result.stdout.casefold()


@contract.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),  # a hostile file is large, and slow to make
)
def test_every_answer_is_one_that_the_contract_describes(case: Case[Any], url: str) -> None:
    case.call_and_validate(base_url=url, checks=CHECKS)
