"""A website on this machine, which breaks off, ignores ranges or lies when it is told to."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from training.downloads import Download


@dataclass
class Website:
    """What is published, how it misbehaves, and which parts were asked for."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    sends_parts: bool = True
    breaks_after: int | None = None  # bytes of a body
    claims: int = 0  # bytes more than it has
    in_chunks: bool = False  # without saying how many bytes there are
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # (name, range)

    def publish(self, name: str, content: bytes) -> Download:
        """The file's address and hash, for whoever wants to download it."""
        self.files[name] = content
        return Download(self.address + name, hashlib.sha256(content).hexdigest())

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name, part = request.path.removeprefix("/"), request.headers["Range"]
        self.asked.append((name, part))
        content = self.files.get(name)
        if content is None:
            request.send_error(404)
            return
        start = 0
        if part and self.sends_parts:
            start = int(part.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                request.send_error(416)
                return
        body = content[start:]
        request.send_response(206 if start else 200)
        if self.in_chunks:
            request.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            request.send_header("Content-Length", str(len(body) + self.claims))
        request.end_headers()
        request.wfile.write(body[: self.breaks_after])


@contextlib.contextmanager
def open_website() -> Iterator[Website]:
    """A website that is up within the block."""
    website = Website()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            website.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        website.address = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield website
        finally:
            server.shutdown()
            thread.join()
