"""A VNC server on a unix socket, as QEMU's: shares the screen, counts keys, floods pictures."""

import asyncio
from pathlib import Path
from typing import Self


class FakeRfb:
    """Serves any number of viewers inside `async with`.

    Args:
        path: Where it listens.
        flood_bytes: How much it sends each viewer as fast as that reads; 0: only the handshake.
    """

    def __init__(self, path: Path, *, flood_bytes: int = 0) -> None:
        self.path = path
        self.keys: list[bytes] = []
        """Key events of all viewers: down or up, and keysym."""
        self.shared: list[bytes] = []
        """What each viewer asked for."""
        self.sent_bytes = 0
        self.open = 0
        self._flood_bytes = flood_bytes
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hang_up(self) -> None:
        """Close all connections, as a QEMU that exits."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.open += 1
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # asyncio 3.11 reports a server's cancelled task as an error of its own.
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n")
        assert await reader.readexactly(12) == b"RFB 003.008\n"
        writer.write(b"\x01\x01")
        assert await reader.readexactly(1) == b"\x01"
        writer.write(b"\0\0\0\0")
        self.shared.append(await reader.readexactly(1))
        writer.write(b"\x00\x08\x00\x08" + bytes(16) + b"\0\0\0\4QEMU")
        async with asyncio.TaskGroup() as group:
            flood = group.create_task(self._flood(writer))
            await self._count(reader)
            flood.cancel()

    async def _flood(self, writer: asyncio.StreamWriter) -> None:
        while self.sent_bytes < self._flood_bytes:
            writer.write(bytes(16 << 10))
            await writer.drain()
            self.sent_bytes += 16 << 10

    async def _count(self, reader: asyncio.StreamReader) -> None:
        while kind := await reader.read(1):
            match kind:
                case b"\x04":
                    event = await reader.readexactly(7)
                    self.keys.append(event[:1] + event[3:])
                case b"\x03":
                    await reader.readexactly(9)
                case _:
                    raise AssertionError(f"the relay let message {kind!r} pass")
