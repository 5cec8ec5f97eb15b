"""A server on a unix socket that serves one client at a time, as QEMU's chardevs do."""

import asyncio
import contextlib
from pathlib import Path
from typing import Self


class UnixPeer:
    """Listens inside `async with`; what it says to a client is `converse`'s to decide.

    A second client connects and waits until the first has gone. Leaving the block ends every
    conversation, also one that hangs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections = 0
        """Clients served until now, the present one included."""
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client to its end."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._accept, self.path, limit=64 << 20)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop_listening(self) -> None:
        """Take no further client and remove the socket, as a QEMU that exits does."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self.path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async with self._turn:
                self.connections += 1
                await self.converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # asyncio 3.11 reports a server's cancelled task as an error of its own.
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
