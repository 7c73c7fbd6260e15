"""BentoML: the parts of it, and of uvicorn below it, that this service replaces.

Each is private, or an option that BentoML does not hand on. `service.api.connections.CHECKED` names
the versions that they were checked against.
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

MAX_SOCKET_PATH = 107  # bytes; Linux has no room for more in an address
KILL_SECONDS = 5.0  # after the time in which a worker ends by itself


def wrap_worker(wrap: "Callable[[ASGIApp], ASGIApp]", settings: Settings) -> None:
    """In each worker: put our application before BentoML's, and our limits into uvicorn.

    `add_asgi_middleware` would put it behind all of BentoML's own.
    """
    build = Service.to_asgi

    def to_asgi(*args: Any, **options: Any) -> "ASGIApp":
        _bound_connections(settings)
        return wrap(build(*args, **options))

    Service.to_asgi = to_asgi


def _bound_connections(settings: Settings) -> None:
    """BentoML's worker makes its server after this, by these two names."""
    import uvicorn

    try:
        from service.api.connections import Config, Server
    except (ImportError, AttributeError):
        logger.exception(
            "uvicorn has changed: connections are not limited; install a locked version"
        )
        return
    uvicorn.Config = lambda **options: Config(settings, **options)  # type: ignore[assignment,misc]
    uvicorn.Server = Server  # type: ignore[assignment,misc]


def guard_workers(settings: Settings) -> None:
    """In the process that starts workers: restart them at once, end them in bounded time.

    Its control sockets obey whoever reaches them, so they are made where no other user does.

    Raises:
        OperatorError: there is no folder for sockets.
    """

    class Arbiter(circus.Arbiter):
        def __init__(self, watchers: Any, *args: Any, **options: Any) -> None:
            for watcher in watchers:
                watcher.graceful_timeout = settings.longest_stop_seconds + KILL_SECONDS
            folder = _make_socket_folder()
            options["endpoint"] = f"ipc://{folder}/control"
            options["pubsub_endpoint"] = f"ipc://{folder}/events"
            options["check_delay"] = 1.0  # seconds, not BentoML's ten
            super().__init__(watchers, *args, **options)

    os.environ[STARTER] = str(os.getpid())
    circus.Arbiter = Arbiter  # type: ignore[misc]


def _make_socket_folder() -> Path:
    """A folder of this user alone, with a path that is short enough; it ends with the process."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/dev/shm")):
        try:
            folder = tempfile.mkdtemp(prefix="sensorium-", dir=parent)  # its mode is 0700
        except OSError:
            continue
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        if len(os.fsencode(f"{folder}/control")) <= MAX_SOCKET_PATH:
            return Path(folder)
    sys.exit("TMPDIR: its path is too long for a socket; name a folder of at most 80 characters")
