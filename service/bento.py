"""What this service replaces inside BentoML, and the versions for which that was checked.

With any other version BentoML stays as it is: the service is one of its middlewares, which is a
public place, and a warning says what is lost. `tests/test_bento.py` fails when a version changes
what is replaced here or in `service.api.connections`. Names of BentoML are imported where they are
used, because another version may not have them.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet

from service.settings import Settings
from service.supervision import STARTER

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

# The same bounds are in pyproject.toml. kantoku is the fork of circus that BentoML uses.
CHECKED = {
    "bentoml": ">=1.4.39,<1.4.41",
    "httptools": ">=0.9.0,<0.9.1",
    "kantoku": ">=0.18.3,<0.18.4",
    "uvicorn": ">=0.54.0,<0.54.1",
}
DEFAULT_PORT = 3000  # BentoML's
MAX_SOCKET_PATH = 107  # bytes, Linux's limit for the path of a Unix socket
KILL_SECONDS = 5.0  # between a worker's latest regular exit and its SIGKILL


def unchecked() -> list[str]:
    """The requirements of `CHECKED` that the installed packages do not meet."""
    return [name + versions for name, versions in CHECKED.items() if not _meets(name, versions)]


def _meets(name: str, versions: str) -> bool:
    try:
        return version(name) in SpecifierSet(versions)
    except PackageNotFoundError:
        return False


def put_in_front(service: Any, front: "Callable[[ASGIApp], ASGIApp]", settings: Settings) -> None:
    """In each worker: put our application in front of BentoML's, and our limits into uvicorn.

    `front` gets BentoML's application. BentoML's public `add_asgi_middleware` runs behind all of
    BentoML's own middleware, but before its routes.
    """
    if unchecked():
        service.add_asgi_middleware(front)
        return
    kind = type(service)
    build = kind.to_asgi

    def to_asgi(*args: Any, **options: Any) -> "ASGIApp":
        _replace_uvicorn_server(settings)
        return front(build(*args, **options))

    kind.to_asgi = to_asgi


def _replace_uvicorn_server(settings: Settings) -> None:
    import uvicorn

    from service.api.connections import Config, Server

    uvicorn.Config = lambda **options: Config(settings, **options)  # type: ignore[assignment,misc]
    uvicorn.Server = Server  # type: ignore[assignment,misc]


def configured_address(host: str) -> tuple[str, int]:
    """The host and port of BentoML's configuration; `host` is the service's own default."""
    if unchecked():
        return host, DEFAULT_PORT
    from bentoml._internal.configuration.containers import BentoMLContainer

    return BentoMLContainer.http.host.get(), BentoMLContainer.http.port.get()


def guard_workers(settings: Settings) -> None:
    """In the parent process: restart workers quickly, and end them in bounded time.

    The parent's control sockets have no authentication, so they lie in a folder of this user alone.
    """
    os.environ[STARTER] = str(os.getpid())
    if missing := unchecked():
        logger.warning(
            "BentoML runs unmodified, because this is not installed: %s. Slow clients are not"
            " disconnected; BentoML ends requests after 60 s; a dead worker is replaced after up to"
            " 10 s; the end of a worker is not bounded; local users can control the workers."
            " Install the versions in requirements-serve.lock",
            ", ".join(missing),
        )
        return
    from bentoml._internal.utils import circus

    class Arbiter(circus.Arbiter):
        def __init__(self, watchers: Any, *args: Any, **options: Any) -> None:
            for watcher in watchers:
                watcher.graceful_timeout = settings.longest_stop_seconds + KILL_SECONDS
            folder = _make_private_socket_folder()
            options["endpoint"] = f"ipc://{folder}/control"
            options["pubsub_endpoint"] = f"ipc://{folder}/events"
            options["check_delay"] = 1.0  # seconds, not BentoML's ten
            super().__init__(watchers, *args, **options)

    circus.Arbiter = Arbiter  # type: ignore[misc]


def _make_private_socket_folder() -> Path:
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/dev/shm")):
        try:
            folder = tempfile.mkdtemp(prefix="sensorium-", dir=parent)  # its mode is 0700
        except OSError:
            continue
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        if len(os.fsencode(f"{folder}/control")) <= MAX_SOCKET_PATH:
            return Path(folder)
    sys.exit("TMPDIR: the path is too long for a socket; use a path of at most 80 characters")
