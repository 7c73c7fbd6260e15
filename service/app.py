"""The BentoML service: workers and lifecycle are its, the routes are ours.

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
from bentoml._internal.configuration.containers import BentoMLContainer

from service import logs
from service.bento import guard_workers, wrap_worker
from service.control.routing import check_state, open_state
from service.errors import OperatorError
from service.keys import read_keys
from service.settings import Settings, check_models, read_settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from service.worker import Worker

logger = logging.getLogger(__name__)


def _meeting(settings: Settings) -> Path:
    """The folder that the workers share; one that ends with this process, if none is set."""
    if settings.state:
        return settings.state
    try:
        folder = mkdtemp(prefix="sensorium-")
    except OSError as error:
        raise OperatorError(
            f"no temporary folder can be made: {error.strerror}; set TMPDIR or SENSORIUM_STATE"
        ) from error
    os.environ["SENSORIUM_STATE"] = folder  # workers are started from here, and inherit it
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


# glibc gives threads heaps of their own, eight a core, and each keeps what a model left in it: of
# models that come and go, a seventh more memory stayed. Workers are started from here, and inherit.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")
# Long texts are tokenised one by one, by our own decoders.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

try:
    settings = read_settings()
    logs.set_up(settings.log_format)
    meeting = _meeting(settings)
    # A mistake of the operator's would end each worker, and BentoML start another one for ever.
    check_models(settings.models)
    open_state(meeting)
    if settings.keys:
        read_keys(settings.keys)
except OperatorError as error:
    sys.exit(str(error))


@cache
def serving() -> "Worker":
    """All that answers. Only a worker has it: it is a third of a process' start and memory."""
    from service.worker import Worker

    return Worker(settings, meeting)


class Front:
    """Every path is ours, before BentoML's routes and its middleware.

    Its `/`, `/readyz` ... would shadow ours, and its deadline keeps a timer for each request until
    it runs out, whether or not the request was answered meanwhile.
    """

    def __init__(self, bentoml: "ASGIApp") -> None:
        self._bentoml, self._app = bentoml, serving().app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        await (self._app if scope["type"] == "http" else self._bentoml)(scope, receive, send)


@bentoml.service(
    name="sensorium",
    workers=settings.workers,
    metrics={"enabled": False},  # they count what BentoML's own routes answer: nothing
    # Without keys, only this machine may use it, unless --host or BENTOML_HOST says otherwise.
    http={"host": "0.0.0.0" if settings.keys else "127.0.0.1"},
)
class Sensorium:
    """One service for pictures, text and sound."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def look_at_address() -> None:
        """Once, before there are workers: end where the port is taken, warn of an open door."""
        context = click.get_current_context(silent=True)
        if context is None:
            return  # no command line: the program that serves chooses its address
        host = context.params.get("host") or BentoMLContainer.http.host.get()
        port = context.params.get("port") or BentoMLContainer.http.port.get()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family) as door:
                door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
                door.bind((host, port))
                address = ipaddress.ip_address(door.getsockname()[0])
        except OSError as error:
            sys.exit(
                f"cannot listen on {host}, port {port}: {error.strerror}; --port takes another"
            )
        if settings.keys is None and not address.is_loopback:
            logger.warning(
                "ANYBODY WHO REACHES %s, PORT %d, MAY USE THIS SERVICE: SENSORIUM_KEYS is not set"
                " (docs/security.md)",
                host,
                port,
            )

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def look_at_state() -> None:
        """Once, before there are workers: end where they could not write what is wanted."""
        try:
            check_state(meeting)
        except OperatorError as error:
            sys.exit(str(error))

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def look_after_workers() -> None:
        """In the process that starts workers."""
        guard_workers(settings)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """In a worker."""
        await serving().start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """In a worker: finish what is queued."""
        await serving().stop()


wrap_worker(Front, settings)
