"""Wire: HTTP/1.1 by hand, byte by byte, and over kept connections: what no library would send."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

HEAD_BYTES = 2**20  # of an answer, at most

Connection = tuple[StreamReader, StreamWriter]


class BrokenOff(Exception):
    """The server ended the connection before its answer was whole."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; the names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class Connections:
    """Those to one port of 127.0.0.1; a caller takes one that is idle, or opens a new one."""

    port: int
    _idle: list[Connection] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            await hang_up(connection[1])

    async def ask(self, message: bytes) -> Answer:
        """The answer to one request.

        Raises:
            BrokenOff: there was none, or half of one.
            OSError: the port cannot be reached.
        """
        reader, writer = await self._connection()
        try:
            writer.write(message)
            answer = await read_answer(reader)
        except BaseException:
            await hang_up(writer)
            raise
        if answer.headers.get("connection") == "close":
            await hang_up(writer)
        else:
            self._idle.append((reader, writer))
        return answer

    async def _connection(self) -> Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            await hang_up(writer)
        return await connect(self.port)


async def connect(port: int) -> Connection:
    return await asyncio.open_connection("127.0.0.1", port, limit=HEAD_BYTES)


def post(
    path: str, content_type: str, body: bytes, headers: Mapping[str, str] | None = None
) -> bytes:
    """A request as any client would send it."""
    lines = {
        "Host": "127.0.0.1",
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def hang_up(writer: StreamWriter) -> None:
    """At once: what was not sent yet need not be, for nobody waits for the answer."""
    writer.transport.abort()
    with suppress(ConnectionError):  # the other side was first
        await writer.wait_closed()


async def read_answer(reader: StreamReader) -> Answer:
    """Raises:
    BrokenOff: the connection ended first.
    """
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        return Answer(int(first.split()[1]), headers, await _read_body(reader, headers))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise BrokenOff(str(error)) from error


async def _read_body(reader: StreamReader, headers: Mapping[str, str]) -> bytes:
    """To its end: of the length that the head tells, chunk by chunk, or all that comes."""
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") != "chunked":
        return await reader.read()
    chunks = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(chunks)
