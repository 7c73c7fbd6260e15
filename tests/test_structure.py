"""The layers point downward, and serving needs no PyTorch."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WEB = {"fastapi", "starlette", "bentoml"}
# Each layer imports only itself and what stands below it; modules at the bottom import each other.
LAYERS = ["app", "bento", "worker", "api", "control", "inference", "model", "runtime", "bottom"]


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The dotted names of all that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(dotted: str) -> int | None:
    """The place of a module of the service in the list; None for any other module."""
    package, _, rest = dotted.partition(".")
    top = rest.partition(".")[0]
    if package != "service":
        return None
    return LAYERS.index(top if top in LAYERS else "bottom")


@pytest.mark.parametrize("path", modules("service"), ids=lambda p: str(p.relative_to(ROOT)))
def test_layers_point_downward(path: Path) -> None:
    own = layer(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert own is not None
    for imported in imports(path):
        other = layer(imported)
        assert other is None or other >= own, f"{path} imports {imported}"


@pytest.mark.parametrize("path", modules("service"), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_api_knows_http(path: Path) -> None:
    inside = path.relative_to(ROOT / "service").parts[0]
    if inside not in ("app.py", "bento.py", "api"):
        assert not WEB & {imported.split(".")[0] for imported in imports(path)}


def test_service_imports_nothing_of_training_and_loadtests_nothing_of_ours() -> None:
    for path in modules("service"):
        assert not {"training", "torch"} & {name.split(".")[0] for name in imports(path)}, path
    for path in modules("loadtests"):
        assert not {"training", "service"} & {name.split(".")[0] for name in imports(path)}, path


def test_training_knows_no_http() -> None:
    for path in modules("training"):
        for imported in imports(path):
            assert not imported.startswith(("service.api", "service.app")), path
            assert imported.split(".")[0] not in WEB, path


def loaded(module: str, names: Sequence[str]) -> list[str]:
    """Which of the names a process has once it has imported the module."""
    program = f"import sys, {module}; print(*(n for n in {tuple(names)} if n in sys.modules))"
    command = [sys.executable, "-W", "ignore", "-c", program]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return found.stdout.split()


def test_a_serving_process_loads_no_torch_and_draws_nothing_at_its_start() -> None:
    assert not loaded("service.worker", ("torch", "onnx", "matplotlib"))


def test_the_process_that_starts_workers_loads_nothing_that_answers() -> None:
    answering = ("fastapi", "numpy", "onnxruntime", "PIL", "soundfile", "tokenizers")
    assert sorted(loaded("service.worker", answering)) == sorted(answering)
    assert not loaded("service.app", answering)
