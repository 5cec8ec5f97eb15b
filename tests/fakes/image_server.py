"""An HTTP server of images that can misbehave, on loopback.

Written on bare streams: a proper HTTP server refuses to lie about a length or to stop half-way.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field


@dataclass
class Resource:
    """What the server gives under one path, and how it misbehaves."""

    body: bytes = field(default=b"", repr=False)
    etag: str | None = None
    last_modified: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    redirect_to: str | None = None
    content_length: int | None = None
    """What it says instead of the truth."""
    has_length: bool = True
    """Without one the end of the body is the end of the connection."""
    break_after: int | None = None
    """Cuts the connection after so many bytes of the body."""
    pause_at: int | None = None
    """Sends so many bytes of the body, then waits for `resume`."""
    resume: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    garbage: bytes | None = None
    """Sent instead of any HTTP."""
    drip_s: float | None = None
    """Sends one byte each time this has passed."""
    password: str | None = None
    """What basic authentication must say; 401 otherwise."""
    ranges: str = "honest"
    """How it takes a Range: `honest`; `ignored` (the whole file); `shifted`, `unlabelled` (another
    part than asked for, or one that says not which); `blind` (If-Range is not looked at);
    `nameless` (nor is said which version the part is of)."""
    refuse_first: int = 0
    """So many requests get `refuse_status` before the others are answered."""
    refuse_status: int = 503
    refuse_headers: dict[str, str] = field(default_factory=dict)
    break_at: list[int] = field(default_factory=list)
    """The connection is cut after so many bytes of the body: one entry an answer, then no more."""
    then: "Resource | None" = None
    """What is there after the first answer."""

    def __post_init__(self) -> None:
        if self.pause_at is None:
            self.resume.set()


@dataclass
class Request:
    """A request that arrived."""

    method: str
    path: str
    headers: dict[str, str]


class ImageServer:
    """Serves `resources` until it is closed; keeps the requests it saw."""

    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        self._published: list[Resource] = []
        self.requests: list[Request] = []
        self.arrived = asyncio.Event()
        """Set when a body is under way and paused, or wholly sent."""
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self.port = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncGenerator["ImageServer"]:
        server = cls()
        await server.start()
        try:
            yield server
        finally:
            await server.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Go down; `start` comes back on the same port."""
        if self._server is not None:
            self._server.close()
            handlers = list(self._connections.values())
            for writer in self._connections:
                writer.transport.abort()
            for resource in self._published:
                resource.resume.set()
            # Not cancelled: on Python 3.11 a stream handler that was says so in the log.
            await asyncio.gather(*handlers, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    def publish(self, path: str, body: bytes, *, etag: str | None = "auto") -> str:
        """Serve `body` under `path` and return its URL; the ETag follows the content."""
        if etag == "auto":
            etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        return self.put(path, Resource(body=body, etag=etag))

    def put(self, path: str, resource: Resource) -> str:
        self.resources[path] = resource
        self._published.append(resource)
        return self.url(path)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def gets(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._connections[writer] = handler
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._answer(reader, writer)
        del self._connections[writer]
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        request = Request(method, path, {name.lower(): value for name, value in headers.items()})
        self.requests.append(request)
        resource = self.resources.get(path, Resource(body=b"nothing here", status=404))
        if resource.garbage is not None:
            writer.write(resource.garbage)
            await writer.drain()
            return
        if resource.then is not None:
            self.resources[path] = resource.then
        status, body, extra = self._decide(request, resource)
        writer.write(self._head(status, resource, body, extra))
        await self._send_body(writer, resource, body)
        self.arrived.set()

    @staticmethod
    def _decide(request: Request, resource: Resource) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and further headers."""
        if resource.refuse_first > 0:
            resource.refuse_first -= 1
            return resource.refuse_status, b"not now", resource.refuse_headers
        if resource.password is not None and "authorization" not in request.headers:
            return 401, b"who are you?", {}
        if resource.redirect_to is not None:
            return 302, b"", {}
        known = (resource.etag, resource.last_modified)
        asked = (request.headers.get("if-none-match"), request.headers.get("if-modified-since"))
        if any(a is not None and a == k for a, k in zip(asked, known, strict=True)):
            return 304, b"", {}
        if resource.status == 200 and "range" in request.headers:
            return _part(request, resource)
        return resource.status, resource.body, {}

    @staticmethod
    def _head(status: int, resource: Resource, body: bytes, extra: dict[str, str]) -> bytes:
        headers = {"Connection": "close", **resource.headers, **extra}
        if resource.etag is not None and not (resource.ranges == "nameless" and status != 200):
            headers["ETag"] = resource.etag
        if resource.last_modified is not None:
            headers["Last-Modified"] = resource.last_modified
        if resource.redirect_to is not None:
            headers["Location"] = resource.redirect_to
        if resource.has_length and status != 304:
            length = resource.content_length
            lies = length is not None and status == 200
            headers["Content-Length"] = str(length if lies else len(body))
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{k}: {v}" for k, v in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode(errors="surrogateescape")

    async def _send_body(
        self, writer: asyncio.StreamWriter, resource: Resource, body: bytes
    ) -> None:
        if resource.drip_s is not None:
            for n in range(len(body)):
                writer.write(body[n : n + 1])
                await writer.drain()
                await asyncio.sleep(resource.drip_s)
            return
        break_after = resource.break_at.pop(0) if resource.break_at else resource.break_after
        if break_after is not None:
            writer.write(body[:break_after])
            await writer.drain()
            return
        pause_at = len(body) if resource.pause_at is None else resource.pause_at
        writer.write(body[:pause_at])
        await writer.drain()
        if not resource.resume.is_set():
            self.arrived.set()
        await resource.resume.wait()
        writer.write(body[pause_at:])
        await writer.drain()


def _part(request: Request, resource: Resource) -> tuple[int, bytes, dict[str, str]]:
    """Answer a request for the rest of a body, as the resource takes such."""
    body = resource.body
    first = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
    is_current = request.headers.get("if-range", resource.etag) == resource.etag
    if resource.ranges == "ignored" or not (is_current or resource.ranges in ("blind", "nameless")):
        return resource.status, body, {}
    if first >= len(body):
        return 416, b"", {"Content-Range": f"bytes */{len(body)}"}
    if resource.ranges == "shifted":
        first -= 1
    label = {"Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}"}
    return 206, body[first:], {} if resource.ranges == "unlabelled" else label
