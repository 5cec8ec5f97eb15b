"""The bench's file server as a process: started, asked what was requested of it, ended."""

import contextlib
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from bench.rig.agent import until
from qemu_node.host.process import command, pidfd


class FileServer:
    """`bench.images.fileserver` on loopback; `requests` are those since the last `forget`."""

    def __init__(self, directory: Path, log: Path) -> None:
        self.directory = directory
        self.url = ""
        self._log = log
        self._forgotten = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, directory: Path, log: Path) -> "AsyncGenerator[FileServer]":
        """Serve the files of `directory` inside the block; what the server says goes to `log`."""
        reading, writing = os.pipe()
        log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            child = command.spawn(
                [sys.executable, "-m", "bench.images.fileserver", str(directory)],
                stdin_fd=reading,
                stderr_fd=log_fd,
                env={**command.SAFE_ENV, "PYTHONPATH": ":".join(sys.path)},
            )
        finally:
            os.close(reading)
            os.close(log_fd)
        try:
            server = cls(directory, log)
            lines = await until(server._lines, lambda lines: len(lines) > 0, "file server")
            server.url = f"http://127.0.0.1:{lines[0]}"
            server.forget()
            yield server
        finally:
            os.close(writing)
            await pidfd.wait_gone(child.process)
            child.exit_status()

    @property
    def requests(self) -> list[str]:
        """The requests since `forget`: method, path, the ETag that the client had."""
        return self._log.read_text().splitlines()[self._forgotten :]

    def forget(self) -> None:
        """Leave out of `requests` what there was so far."""
        self._forgotten = len(self._log.read_text().splitlines())

    async def _lines(self) -> list[str]:
        # A line that is not complete is not there yet.
        return self._log.read_text().rpartition("\n")[0].splitlines()
