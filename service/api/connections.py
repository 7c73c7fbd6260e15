"""Connections: uvicorn's protocol, with time and size limits for clients.

`Connection` uses private parts of uvicorn. `service.bento` states the versions for which they were
checked; with others, uvicorn's own protocol serves.
"""

import asyncio
import faulthandler
import os
import socket
from collections import deque
from collections.abc import Callable
from math import inf
from types import FrameType
from typing import Any, Literal

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.middleware.ingress import new_id
from service.api.problems import describe, respond
from service.errors import BadRequest, BodyTimeout, SensoriumError, TooLarge
from service.settings import Settings
from service.supervision import supervise

SWEEP_SECONDS = 1.0
MAX_PIPELINED = 16  # requests of one connection that wait while another is answered
MAX_HEAD = 128 * 1024  # bytes of a request's line and headers: a query can hold many labels
LINGER_SECONDS = 2.0  # for the client to read the last response; its own data is dropped
MIN_READ = 16 * 1024  # bytes of a response; a client that reads fewer makes no progress


class Config(uvicorn.Config):
    """uvicorn's configuration, with the connections and limits of this service."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.settings = settings
        given = options.pop("timeout_graceful_shutdown", None) or inf
        super().__init__(
            **options,
            http=Connection,
            ws="none",
            # Clients can forge X-Forwarded-For, so it counts only if the operator names proxies.
            proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
            timeout_graceful_shutdown=min(given, settings.stop_seconds),  # type: ignore[arg-type]
        )


class Server(uvicorn.Server):
    """uvicorn's server; it also closes stalled connections and exits in bounded time."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._settings = config.settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sweeper = supervise("the check of connections", self._sweep)

    async def _sweep(self) -> None:
        """Check all connections with one timer, which is cheaper than one timer per request."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(now)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown. A process that does not end in time prints its stacks and exits."""
        faulthandler.dump_traceback_later(self._settings.longest_stop_seconds, exit=True)
        super().handle_exit(sig, frame)


class Exit:
    """The transport to which uvicorn writes responses, with `close` replaced."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class Connection(HttpToolsProtocol):
    """A client's connection. It is closed when the client makes no progress.

    The application bounds the time for bodies. This class bounds the other phases: the headers, the
    rest of a body after its response, and a response that the client does not read.
    """

    config: Config

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._settings = self.config.settings
        self._phase: Literal["idle", "head", "body"] = "idle"  # of the arriving message
        self._due = inf  # the phase's deadline
        self._ending = False  # no further request is read
        self._lingering = False  # the last response is written; arriving data is dropped
        self._unparsed = 0  # bytes since the last complete head, piece of a body, or message
        self._received = 0  # bytes of the arriving body
        self._unread = 0  # bytes that the client had not read when it last made progress
        self._read_at = 0.0  # when it last made progress

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._exit = Exit(transport, self._close)
        self._due = self.loop.time() + self._settings.stall_seconds

    def check(self, now: float) -> None:
        """Close the connection if its client makes no progress."""
        unread = self.transport.get_write_buffer_size()
        if not unread or unread > self._unread or self._unread - unread >= MIN_READ:
            self._unread, self._read_at = unread, now
        elif now - self._read_at > self._settings.stall_seconds:
            self.transport.abort()
        if now > self._due:
            self._due = inf
            if self._phase == "head" and not self._lingering:
                seconds = self._settings.stall_seconds
                self._end(BodyTimeout(f"the headers were not complete within {seconds:g} seconds"))
            else:
                self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._ending:
            self._drop(data)
            return
        self._unparsed += len(data)
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError as error:
            # The parser hides the message of an error in our own callbacks.
            callback = isinstance(error, httptools.HttpParserCallbackError)
            reason = "its target is not supported" if callback else str(error)
            self._end(BadRequest(f"not a valid HTTP/1.1 request: {reason}"))
        if self._unparsed > MAX_HEAD:
            self._end(TooLarge(f"the request's headers exceed {MAX_HEAD:,} bytes"))

    def _feed(self, data: bytes) -> bytes:
        """Parse the data, and return the rest to be parsed again.

        The parser stops at a request with an upgrade offer, such as h2c, and skips its body. The
        service accepts no upgrades, so the request is parsed again without the offer.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stop:
            version = self.parser.get_http_version().encode()
            lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
            lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            return b"\r\n".join(lines) + b"\r\n\r\n" + data[stop.args[0] :]
        return b""

    def _end(self, error: SensoriumError) -> None:
        """Read no further request, and close after the last response, or after this error."""
        if self._ending or self.transport.is_closing():
            return
        self._ending = True
        self.flow.pause_reading()
        under_way = self.cycle is not None and not self.cycle.response_complete
        if under_way and self._phase != "body":
            self.cycle.keep_alive = False
            return
        if not under_way or not (self.pipeline or self.cycle.response_started):
            self.transport.write(_raw_response(error, self.server_state.default_headers))
        self._linger()

    def _close(self) -> None:
        """Close after the last response, immediately if no request is arriving."""
        if self._phase == "idle" and not self._ending:
            self.transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Close later: the kernel drops the response if the client's data is still unread."""
        self._ending = self._lingering = True
        self._received = 0
        self._due = self.loop.time() + LINGER_SECONDS
        if self.cycle is not None and not self.cycle.response_complete:  # its request is broken
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    def _drop(self, data: bytes) -> None:
        self._received += len(data)
        if not self._lingering:
            self.flow.pause_reading()
        elif self._received > self._settings.max_body_bytes:
            self.transport.close()

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests are pipelined")
        self._unset_keepalive_if_required()
        self._phase = "head"
        self._due = self.loop.time() + self._settings.stall_seconds
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("CONNECT is not supported")
            return
        self._phase, self._due = "body", inf
        self._unparsed = self._received = 0
        super().on_headers_complete()
        self.cycle.transport = self._exit  # type: ignore[assignment]
        self.headers = deque(maxlen=0)  # type: ignore[assignment]  # trailers are dropped

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        self._received += len(body)
        if self.cycle.response_complete and self._received > self._settings.max_body_bytes:
            self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._phase == "head":  # an upgrade was offered
            return
        self._phase, self._due = "idle", inf
        self._unparsed = 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self._await_next()

    def on_response_complete(self) -> None:
        if self._lingering:
            return
        super().on_response_complete()
        if self._phase != "idle":
            self._unset_keepalive_if_required()
        if self._phase == "body" and self.cycle.response_complete:
            self._due = self.loop.time() + self._settings.body_seconds

    def _await_next(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )


def _raw_response(error: SensoriumError, headers: list[tuple[bytes, bytes]]) -> bytes:
    response = respond(describe(error, new_id()), "/")
    response.headers["Connection"] = "close"
    lines = [STATUS_LINE[response.status_code]]
    for name, value in (*headers, *response.raw_headers):
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines) + b"\r\n" + bytes(response.body)
