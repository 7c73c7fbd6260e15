"""docs/reference.md lists what there is: no more, no less."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

import service.metrics
from service.api import build_api, problems
from service.settings import Settings

REFERENCE = (Path(__file__).parents[1] / "docs/reference.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """The first table under a heading: first cell -> the others."""
    section = REFERENCE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return {first: others for first, *others in cells}


def test_endpoints() -> None:
    paths = build_api().openapi()["paths"]
    found = {f"{verb.upper()} {path}" for path, verbs in paths.items() for verb in verbs}
    assert set(rows("Endpoints")) == found | {"GET /openapi.json"}


def test_settings_and_their_defaults() -> None:
    found = {
        f"SENSORIUM_{name.upper()}": str(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert {name: cells[0] for name, cells in rows("Settings").items()} == found


def test_metrics_and_their_types() -> None:
    assert service.metrics.STAGE
    found = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in REGISTRY.collect()
        if family.name.startswith("sensorium_")
    }
    assert {name: cells[0] for name, cells in rows("Metrics").items()} == found


def test_problems_and_their_statuses() -> None:
    found = {code: str(status) for status, code, _ in problems.TABLE.values()}
    found["method_not_allowed"] = "405"  # what the router itself says
    assert {code: cells[0] for code, cells in rows("Problems").items()} == found


@pytest.mark.parametrize("name", rows("Functions"))
def test_functions_exist_and_are_described(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute).__doc__


def test_the_functions_of_the_service_that_training_calls_are_listed() -> None:
    called = set()
    for path in (Path(__file__).parents[1] / "training").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("service"):
                module = importlib.import_module(str(node.module))
                imported = [getattr(module, alias.name) for alias in node.names]
                called |= {used for used in imported if inspect.isfunction(used)}
    names = {f"{used.__module__}.{used.__name__}" for used in called}
    assert names
    assert names <= set(rows("Functions"))
