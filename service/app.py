"""The BentoML service: BentoML runs the workers, and this code answers every route.

bentoml serve service.app:Sensorium
"""

import atexit
import ipaddress
import logging
import os
import shutil
import socket
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import bentoml
import click

from service import logs
from service.bento import configured_address, guard_workers, put_in_front
from service.control.routing import check_state, open_state
from service.errors import BadRequest, OperatorError
from service.keys import read_keys
from service.settings import Settings, check_models, read_settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from service.worker import Worker

logger = logging.getLogger(__name__)


def _state_folder(settings: Settings) -> Path:
    if settings.state:
        return settings.state
    try:
        folder = mkdtemp(prefix="sensorium-")
    except OSError as error:
        raise OperatorError(
            f"cannot create a temporary folder: {error.strerror}; set TMPDIR or SENSORIUM_STATE"
        ) from error
    os.environ["SENSORIUM_STATE"] = folder  # inherited by the workers
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _check_defaults(settings: Settings) -> None:
    """Raises:
    OperatorError: a default is set for an unknown modality or task.
    """
    from service.control.selection import check_uses  # it imports all decoders

    try:
        check_uses(settings.default_models)
    except BadRequest as error:
        raise OperatorError(f"SENSORIUM_DEFAULT_MODELS: {error}") from error


# By default glibc uses up to eight heaps per core, and each keeps freed memory: loading and
# unloading models left a seventh more memory in use. Workers inherit the variables set here.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")
# The service's own decoder threads tokenise texts, one text per thread.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

try:
    settings = read_settings()
    logs.set_up(settings.log_format)
    state_folder = _state_folder(settings)
    # Check the settings here: BentoML restarts a worker that ends over a wrong setting forever.
    check_models(settings.models)
    if settings.default_models:
        _check_defaults(settings)
    open_state(state_folder)
    if settings.keys:
        read_keys(settings.keys)
except OperatorError as error:
    sys.exit(str(error))


# Without keys, only this machine has access, unless --host or BENTOML_HOST says otherwise.
HOST = "0.0.0.0" if settings.keys else "127.0.0.1"


@cache
def serving() -> "Worker":
    """This worker's state. Only workers build it: it is a third of a process' start and memory."""
    from service.worker import Worker

    return Worker(settings, state_folder)


class Front:
    """ASGI application: sends HTTP requests to this service instead of BentoML's own application.

    BentoML's `/`, `/readyz` and others shadow the service's routes. Its deadline keeps a timer per
    request until the timer expires, even after the response.
    """

    def __init__(self, bentoml: "ASGIApp") -> None:
        self._bentoml, self._app = bentoml, serving().app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        await (self._app if scope["type"] == "http" else self._bentoml)(scope, receive, send)


@bentoml.service(
    name="sensorium",
    workers=settings.workers,
    metrics={"enabled": False},  # BentoML's metrics count only its own routes
    http={"host": HOST},
)
class Sensorium:
    """One service for images, text and audio."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def check_address() -> None:
        """Before workers start: exit if the port is taken; warn if authentication is off."""
        context = click.get_current_context(silent=True)
        if context is None:
            return  # no command line: the embedding program chooses the address
        configured_host, configured_port = configured_address(HOST)
        host = context.params.get("host") or configured_host
        port = context.params.get("port") or configured_port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
                listener.bind((host, port))
                address = ipaddress.ip_address(listener.getsockname()[0])
        except OSError as error:
            sys.exit(
                f"cannot listen on {host}, port {port}: {error.strerror};"
                " choose another port with --port"
            )
        if settings.keys is None and not address.is_loopback:
            logger.warning(
                "AUTHENTICATION IS OFF, and the service listens on %s, port %d: set SENSORIUM_KEYS"
                " (docs/security.md)",
                host,
                port,
            )

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def check_state_folder() -> None:
        """Before workers start: exit if they cannot use the state folder."""
        try:
            check_state(state_folder)
        except OperatorError as error:
            sys.exit(str(error))

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def supervise_workers() -> None:
        """In the parent process of the workers."""
        guard_workers(settings)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """In a worker."""
        await serving().start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """In a worker: finish queued work."""
        await serving().stop()


put_in_front(Sensorium, Front, settings)
