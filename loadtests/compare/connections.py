"""Connections: plain requests over kept ones; an HTTP library would take more of the cores."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping

from loadtests.compare.dialects import Body

Connection = tuple[StreamReader, StreamWriter]


def write_request(port: int, path: str, body: Body, headers: Mapping[str, str]) -> bytes:
    lines = {
        "Host": f"127.0.0.1:{port}",
        "Content-Type": body.content_type,
        "Content-Length": str(len(body.content)),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body.content


async def ask(port: int, request: bytes, idle: list[Connection]) -> int:
    """The status of the answer; the connection is kept for the next caller."""
    reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await _skip_body(reader, head)
    except BaseException:
        writer.close()
        raise
    if b"connection: close" in head:
        writer.close()
    else:
        idle.append((reader, writer))
    return int(head.split()[1])


async def _skip_body(reader: StreamReader, head: bytes) -> None:
    """Read it to its end: of the length that the head tells, or chunk by chunk."""
    _, told, length = head.partition(b"content-length:")
    if told:
        await reader.readexactly(int(length.split()[0]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)
