"""A small HTTP server on loopback for peers that are more than files: registries, S3.

One request a connection; what is answered is a subclass's.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class PeerRequest:
    """A request that arrived."""

    method: str
    target: str
    """Path and query as they were sent."""
    headers: dict[str, str]
    """By lower-case name."""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)


@dataclass
class Reply:
    """What the peer says to it."""

    status: int = 200
    body: bytes = field(default=b"", repr=False)
    headers: dict[str, str] = field(default_factory=dict)


class HttpPeer:
    """Answers until it is closed; keeps the requests it saw."""

    def __init__(self) -> None:
        self.requests: list[PeerRequest] = []
        self.port = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Self]:
        peer = cls()
        handlers: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            handler = asyncio.current_task()
            assert handler is not None
            handlers.add(handler)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await peer._serve(reader, writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        peer.port = server.sockets[0].getsockname()[1]
        try:
            yield peer
        finally:
            server.close()
            await asyncio.gather(*handlers, return_exceptions=True)
            await server.wait_closed()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def answer(self, request: PeerRequest) -> Reply:
        """Return what to say; a peer that was not told otherwise has nothing."""
        del request
        return Reply(404)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = head[0].split(" ")
        headers: dict[str, str] = {}
        for line in head[1:]:
            name, _, value = line.partition(": ")
            if name:
                # One that comes twice is a list (RFC 9110, 5.3).
                before = headers.get(name.lower())
                headers[name.lower()] = value if before is None else f"{before}, {value}"
        request = PeerRequest(method, target, headers)
        self.requests.append(request)
        reply = self.answer(request)
        said = {"Connection": "close", "Content-Length": str(len(reply.body)), **reply.headers}
        lines = [f"HTTP/1.1 {reply.status} Whatever", *(f"{k}: {v}" for k, v in said.items())]
        writer.write(
            ("\r\n".join(lines) + "\r\n\r\n").encode() + (b"" if method == "HEAD" else reply.body)
        )
        await writer.drain()
