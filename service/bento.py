"""The parts of BentoML and uvicorn that this service replaces.

They are private, or options that BentoML does not expose. `service.api.connections.CHECKED` names
the versions that this module was checked against.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _bentoml_sdk import Service
from bentoml._internal.utils import circus

from service.settings import Settings
from service.supervision import STARTER

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

MAX_SOCKET_PATH = 107  # bytes, Linux's limit for the path of a Unix socket
KILL_SECONDS = 5.0  # between a worker's latest regular exit and its SIGKILL


def wrap_worker(wrap: "Callable[[ASGIApp], ASGIApp]", settings: Settings) -> None:
    """In each worker: put our application in front of BentoML's, and our limits into uvicorn.

    BentoML's public `add_asgi_middleware` runs behind all of BentoML's own middleware.
    """
    build = Service.to_asgi

    def to_asgi(*args: Any, **options: Any) -> "ASGIApp":
        _replace_uvicorn_server(settings)
        return wrap(build(*args, **options))

    Service.to_asgi = to_asgi


def _replace_uvicorn_server(settings: Settings) -> None:
    import uvicorn

    try:
        from service.api.connections import Config, Server
    except (ImportError, AttributeError):
        logger.exception(
            "this uvicorn version is not supported, and connections are not limited;"
            " install the version in requirements.lock"
        )
        return
    uvicorn.Config = lambda **options: Config(settings, **options)  # type: ignore[assignment,misc]
    uvicorn.Server = Server  # type: ignore[assignment,misc]


def guard_workers(settings: Settings) -> None:
    """In the parent process: restart workers quickly, and end them in bounded time.

    The parent's control sockets have no authentication, so they lie in a folder of this user alone.
    """

    class Arbiter(circus.Arbiter):
        def __init__(self, watchers: Any, *args: Any, **options: Any) -> None:
            for watcher in watchers:
                watcher.graceful_timeout = settings.longest_stop_seconds + KILL_SECONDS
            folder = _make_private_socket_folder()
            options["endpoint"] = f"ipc://{folder}/control"
            options["pubsub_endpoint"] = f"ipc://{folder}/events"
            options["check_delay"] = 1.0  # seconds, not BentoML's ten
            super().__init__(watchers, *args, **options)

    os.environ[STARTER] = str(os.getpid())
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
