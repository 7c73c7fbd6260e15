"""Whatever lies in the models folder is that folder's own failure, and the other models serve."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import onnxruntime
import pytest

from service.api import build_api, build_app
from service.api.context import build_context
from service.control.repository import Repository
from service.errors import OperatorError
from service.settings import Settings
from tests.conftest import png, write_colours
from tests.servers import served
from tests.test_management import change, wait_for

RED = png((250, 10, 10))
NOBODY = 65534


class Odd(NamedTuple):
    """What is put into the models folder, and which entry it becomes."""

    title: str
    make: Callable[[Path], object]
    key: tuple[str, str] | None = None  # name and version; None: there is no entry of it
    reason: str | None = None  # None: it serves


def folder(*names: str | bytes) -> Callable[[Path], object]:
    def make(models: Path) -> None:
        os.makedirs(os.path.join(os.fsencode(models), *map(os.fsencode, names)))

    return make


def version(name: str | bytes) -> Callable[[Path], object]:
    """A good version under another name."""

    def make(models: Path) -> None:
        shutil.copytree(
            models / "colours/1", os.fsdecode(os.fsencode(f"{models}/odd/") + _raw(name))
        )

    return make


def _raw(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode()


def link(name: str, target: str) -> Callable[[Path], object]:
    def make(models: Path) -> None:
        path = models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    return make


def file(name: str) -> Callable[[Path], object]:
    def make(models: Path) -> None:
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_bytes(b"a file")

    return make


def pipe(name: str) -> Callable[[Path], object]:
    def make(models: Path) -> None:
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(models / name)

    return make


def listener(models: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door, tempfile.TemporaryDirectory() as short:
        door.bind(f"{short}/socket")
        os.rename(f"{short}/socket", models / "door")


def no_manifest(put: Callable[[Path], object]) -> Callable[[Path], object]:
    """A good version whose manifest is replaced."""

    def make(models: Path) -> None:
        write_colours(models, "odd")
        (models / "odd/1/manifest.yaml").unlink()
        put(models)

    return make


def beside(put: Callable[[Path], object]) -> Callable[[Path], object]:
    """A good version with something odd in its folder."""

    def make(models: Path) -> None:
        write_colours(models, "odd")
        put(models)

    return make


def elsewhere(models: Path) -> Path:
    return write_colours(models.parent / "elsewhere", "odd")


def linked_version(models: Path) -> None:
    target = elsewhere(models)
    (models / "odd").mkdir()
    (models / "odd/1").symlink_to(target)


def linked_model(models: Path) -> None:
    (models / "odd").symlink_to(elsewhere(models).parent)


NUMBER = "a version is a positive number"
NAME = "lower-case letters"
NOT_THERE = "a link to a missing folder"
NO_MANIFEST = "holds no file manifest.yaml"
FILE = "manifest.yaml"
MANIFEST = f"odd/1/{FILE}"

ODD = [
    Odd("version ²", version("²"), ("odd", "²"), NUMBER),
    Odd("version ٣", version("٣"), ("odd", "٣"), NUMBER),
    Odd("version 007", version("007"), ("odd", "007"), NUMBER),
    Odd("version 0", version("0"), ("odd", "0"), NUMBER),
    Odd("version -1", version("-1"), ("odd", "-1"), NUMBER),
    Odd("version +1", version("+1"), ("odd", "+1"), NUMBER),
    Odd("version 1.0", version("1.0"), ("odd", "1.0"), NUMBER),
    Odd("version 1e3", version("1e3"), ("odd", "1e3"), NUMBER),
    Odd("version 1 copy", version("1 copy"), ("odd", "1 copy"), NUMBER),
    Odd("version v2", version("v2"), ("odd", "v2"), NUMBER),
    Odd("version latest", version("latest"), ("odd", "latest"), NUMBER),
    Odd("version 1~", version("1~"), ("odd", "1~"), NUMBER),
    Odd("version of ten digits", version("9999999999"), ("odd", "9999999999"), NUMBER),
    Odd("version of 200 digits", version("9" * 200), ("odd", "9" * 200), NUMBER),
    Odd("version not in UTF-8", version(b"caf\xe9"), ("odd", "caf\\udce9"), NUMBER),
    Odd("version with a newline", version("1\n2"), ("odd", "1\\n2"), NUMBER),
    Odd("version with a colon", version("1:2"), ("odd", "1:2"), NUMBER),
    Odd("version link to nothing", link("odd/2", "nowhere"), ("odd", "2"), NOT_THERE),
    Odd("version link to itself", link("odd/2", "2"), ("odd", "2"), "cannot be read"),
    Odd("version link to the models", link("odd/loop", "../"), ("odd", "loop"), NUMBER),
    Odd("version link far too long", link("odd/2", "x" * 300), ("odd", "2"), "cannot be read"),
    Odd("version is a file", file("odd/2"), ("odd", "-"), "holds no version folder"),
    Odd("version is a pipe", pipe("odd/2"), ("odd", "-"), "holds no version folder"),
    Odd("version folder is empty", folder("odd", "1"), ("odd", "1"), NO_MANIFEST),
    Odd("model folder is empty", folder("odd"), ("odd", "-"), "holds no version folder"),
    Odd("model is a file", file("README")),
    Odd("model is a pipe", pipe("odd")),
    Odd("model is a socket", listener),
    Odd("model link to a file", link("odd", "colours/1/card.md")),
    Odd("model link to nothing", link("odd", "nowhere"), ("odd", "-"), NOT_THERE),
    Odd("model link to itself", link("odd", "odd"), ("odd", "-"), "cannot be read"),
    Odd("model link far too long", link("odd", "x" * 300), ("odd", "-"), "cannot be read"),
    Odd("model not in UTF-8", folder(b"caf\xe9", "1"), ("caf\\udce9", "-"), NAME),
    Odd("model half a character", folder(b"\xff\xfe", "1"), ("\\udcff\\udcfe", "-"), NAME),
    Odd("model with a newline", folder("a\nb", "1"), ("a\\nb", "-"), NAME),
    Odd("model with a quote", folder('a"}b', "1"), ('a"}b', "-"), NAME),
    Odd("model with a colon", folder("a:b", "1"), ("a:b", "-"), NAME),
    Odd("model with a backslash", folder("a\\b", "1"), ("a\\b", "-"), NAME),
    Odd("model with an escape", folder("\x1b[2Ja", "1"), ("\\x1b[2Ja", "-"), NAME),
    Odd("model with a percent", folder("a%2fb", "1"), ("a%2fb", "-"), NAME),
    Odd("model with markup", folder("<script>", "1"), ("<script>", "-"), NAME),
    Odd("model with a blank", folder("my model", "1"), ("my model", "-"), NAME),
    Odd("model in capitals", folder("Odd", "1"), ("Odd", "-"), NAME),
    Odd("model with an umlaut", folder("gemüse", "1"), ("gemüse", "-"), NAME),
    Odd("model that is a picture", folder("\U0001f600", "1"), ("\U0001f600", "-"), NAME),
    Odd("model right to left", folder("\u202eodd", "1"), ("\\u202eodd", "-"), NAME),
    Odd("model ends in a dash", folder("odd-", "1"), ("odd-", "-"), NAME),
    Odd("model of 65 letters", folder("a" * 65, "1"), ("a" * 65, "-"), NAME),
    Odd("model lost+found", folder("lost+found"), ("lost+found", "-"), NAME),
    Odd("hidden model", folder(".odd", "1")),
    Odd("model __pycache__", folder("__pycache__", "1")),
    Odd("hidden link to nothing", link(".#colours", "user@host.1:2")),
    Odd("manifest is a folder", no_manifest(folder(MANIFEST)), ("odd", "1"), NO_MANIFEST),
    Odd("manifest is a pipe", no_manifest(pipe(MANIFEST)), ("odd", "1"), NO_MANIFEST),
    Odd("manifest link to nothing", no_manifest(link(MANIFEST, "x")), ("odd", "1"), NO_MANIFEST),
    Odd("manifest link to itself", no_manifest(link(MANIFEST, FILE)), ("odd", "1"), NO_MANIFEST),
    Odd("manifest is missing", no_manifest(lambda _: None), ("odd", "1"), NO_MANIFEST),
    Odd("beside: an editor's lock", beside(link("odd/1/.#card.md", "me@host:1")), ("odd", "1")),
    Odd("beside: a link to nothing", beside(link("odd/1/notes", "nowhere")), ("odd", "1")),
    Odd("beside: a link to itself", beside(link("odd/1/self", "self")), ("odd", "1")),
    Odd("beside: a pipe", beside(pipe("odd/1/pipe")), ("odd", "1")),
    Odd("beside: a folder", beside(folder("odd", "1", "old")), ("odd", "1")),
    Odd("beside: a name not in UTF-8", beside(folder("odd", "1", b"caf\xe9")), ("odd", "1")),
    Odd("a file beside the versions", beside(file("odd/README")), ("odd", "1")),
    Odd("version link to a good one", linked_version, ("odd", "1")),
    Odd("model link to a good one", linked_model, ("odd", "1")),
]  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize("odd", ODD, ids=[odd.title for odd in ODD])
async def test_an_odd_folder_fails_alone(tmp_path: Path, odd: Odd) -> None:
    models = tmp_path / "models"
    write_colours(models)
    odd.make(models)
    await check(models, odd)


async def check(models: Path, odd: Odd) -> None:
    """All routes answer, the good model serves, and the odd entry says what is wrong with it."""
    config = Settings(models=models)
    api = build_api()
    api.state.sensorium = state = build_context(config, models.parent)
    await state.repository.open()
    transport = httpx.ASGITransport(build_app(api, config))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://sensorium") as client:
            ready = await client.get("/readyz")
            answer = await client.post("/v1/image/classify?model=colours", content=RED)
            cards = await client.get("/v1/models")
            index = await client.post("/v2/repository/index")
            figures = await client.get("/metrics")
    finally:
        await state.repository.close()
        state.pipeline.close()
    statuses = [each.status_code for each in (ready, answer, cards, index, figures)]
    assert statuses == [200, 200, 200, 200, 200]
    found = {(row["name"], row["version"]): row for row in ready.json()["models"]}
    assert found.pop(("colours", "1"))["state"] == "ready"
    assert set(found) == ({odd.key} if odd.key else set())
    assert {(row["name"], row["version"]) for row in index.json()} == {("colours", "1"), *found}
    for row in found.values():
        assert row["state"] == ("failed" if odd.reason else "ready")
        assert (odd.reason or "") in (row["reason"] or "")
        assert str(models) not in (row["reason"] or "")


FORBIDDEN = [
    Odd("model folder", lambda models: (models / "odd"), ("odd", "-"), "Permission denied"),
    Odd("version folder", lambda models: (models / "odd/1"), ("odd", "1"), "Permission denied"),
    Odd("manifest", lambda models: models / MANIFEST, ("odd", "1"), "ermission denied"),
    Odd("graph", lambda models: models / "odd/1/model.onnx", ("odd", "1"), "ermission denied"),
]  # fmt: skip


@contextmanager
def without_rights() -> Iterator[Path]:
    """A folder of which this process is no more than a reader, root or not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    before = os.umask(0o022)
    user = os.geteuid()
    try:
        yield folder
    finally:
        os.seteuid(user)
        os.umask(before)
        for path in folder.rglob("*"):
            with suppress(OSError):
                path.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.anyio
@pytest.mark.parametrize("odd", FORBIDDEN, ids=[odd.title for odd in FORBIDDEN])
async def test_what_cannot_be_read_fails_alone(odd: Odd) -> None:
    with without_rights() as parent:
        models = parent / "models"
        write_colours(models)
        write_colours(models, "odd")
        path = odd.make(models)
        assert isinstance(path, Path)
        path.chmod(0)
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
        await check(models, odd)


@pytest.mark.anyio
async def test_a_fault_that_nobody_foresaw_is_one_model_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_colours(tmp_path)
    write_colours(tmp_path, "others")
    make, faults = onnxruntime.SessionOptions, [MemoryError("unforeseen")]

    def make_once_failed() -> onnxruntime.SessionOptions:
        if faults:
            raise faults.pop()
        return make()

    monkeypatch.setattr(onnxruntime, "SessionOptions", make_once_failed)
    repository = Repository(Settings(models=tmp_path))
    await repository.open()
    reasons = {entry.state: entry.reason for entry in repository.entries()}
    await repository.close()
    assert set(reasons) == {"ready", "failed"}
    assert "cannot be loaded: MemoryError('unforeseen')" in str(reasons["failed"])


@pytest.mark.anyio
async def test_models_serve_on_while_their_folder_cannot_be_read(tmp_path: Path) -> None:
    """Also the models folder itself, as when its file system is not mounted for a moment."""
    models, aside = tmp_path / "models", tmp_path / "aside"
    write_colours(models)
    write_colours(models, "others")
    repository = Repository(Settings(models=models))
    await repository.open()
    before = await repository.poll({})
    models.rename(aside)
    with pytest.raises(OperatorError, match="the models folder cannot be read"):
        await repository.poll(before)
    aside.rename(models)
    (models / "others").rename(aside)
    link("others", "others")(models)  # it is there, and cannot be read
    for _ in range(3):
        before = await repository.poll(before)
        async with repository._changing["others"]:
            states = {(entry.name, entry.version): entry.state for entry in repository.entries()}
    assert states.pop(("others", "1")) == "ready"
    assert states == {("colours", "1"): "ready", ("others", "-"): "failed"}
    (models / "others").unlink()
    for _ in range(3):
        before = await repository.poll(before)
        async with repository._changing["others"]:
            left = {entry.name for entry in repository.entries()}
    assert left == {"colours"}
    await repository.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_starts_and_polls_in_spite_of_odd_folders(tmp_path: Path, workers: int) -> None:
    models = tmp_path / "models"
    write_colours(models)
    version("²")(models)
    link("dangling", "nowhere")(models)
    folder(b"caf\xe9", "1")(models)
    link("colours/1/.#manifest.yaml", "user@host.1:2")(models)
    with served(models, workers=workers, env={"SENSORIUM_MODEL_POLL_SECONDS": "0.05"}) as url:
        shutil.copytree(models / "odd/²", models / "odd/٣")
        link("colours/1/#notes", "nowhere")(models)
        write_colours(models, "last")
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            wait_for(lambda: ready(client, "last") == {"1": "ready"})
            assert ready(client, "odd") == {"²": "failed", "٣": "failed"}
            for path in ("/v1/models", "/metrics"):
                assert client.get(path).status_code == 200
            assert client.post("/v1/image/classify?model=last", content=RED).status_code == 200
        shutil.rmtree(models / "odd/٣")
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            wait_for(lambda: ready(client, "odd") == {"²": "failed"})
        loaded = change(url, "colours/load")
        assert loaded.status_code == 200


def ready(client: httpx.Client, name: str) -> dict[str, str]:
    rows = client.get("/readyz").raise_for_status().json()["models"]
    return {row["version"]: row["state"] for row in rows if row["name"] == name}


@pytest.mark.anyio
async def test_folders_that_come_and_go_do_not_end_the_polling(tmp_path: Path) -> None:
    models, aside = tmp_path / "models", tmp_path / "aside"
    write_colours(models)
    whole = write_colours(aside, "others").parent
    repository = Repository(Settings(models=models))
    await repository.open()
    before = await repository.poll({})
    for _ in range(5):
        shutil.copytree(whole, models / "others")
        before = await repository.poll(before)
        shutil.rmtree(models / "others")
        before = await repository.poll(before)
    shutil.copytree(whole, models / "others")
    while not any(entry.name == "others" and entry.served for entry in repository.entries()):
        before = await repository.poll(before)
    await repository.close()
