"""A line between a browser and a server that a test cuts and mends: TCP on loopback."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

_CHUNK_BYTES = 1 << 16


@dataclass
class Line:
    """Carries bytes to `target`, a port of loopback, while it is whole."""

    target: int
    port: int = 0
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def mend(self) -> None:
        """Let connections come, on the same port as before."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Break all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers |= {writer, to_writer}
            await asyncio.gather(_pipe(reader, to_writer), _pipe(to_reader, writer))
            self._writers -= {writer, to_writer}


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def line_to(port: int) -> AsyncGenerator[Line]:
    """Return a whole line to a port."""
    line = Line(port)
    await line.mend()
    try:
        yield line
    finally:
        await line.cut()
