"""Programs in QEMU's place that misbehave: shell scripts, and one that speaks QMP as it is told."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Self

from fakes.fake_qmp import FakeQmp

VERSION = "QEMU emulator version 7.2.22 (fake)"
_TESTS = Path(__file__).parents[1]


def fake_qemu(directory: Path, script: str) -> str:
    """Return the path of a program that answers --version as QEMU does and else runs `script`."""
    path = directory / "fake-qemu"
    version = f'[ "$1" = --version ] && {{ echo {shlex.quote(VERSION)}; exit; }}'
    path.write_text(f"#!/bin/sh\n{version}\n{script}\n")
    path.chmod(0o755)
    return str(path)


def fake_qemu_with_qmp(directory: Path, *, dies: bool = False, **behaviour: Any) -> str:
    """Return the path of a program that serves QMP on the socket QEMU would inherit.

    Args:
        directory: Where the program is put.
        dies: It ends by SIGSEGV as soon as a client has connected.
        behaviour: What `FakeQmp` is told.
    """
    words = [sys.executable, "-m", "fakes.fake_qemu", json.dumps({"dies": dies, **behaviour})]
    return fake_qemu(directory, f'PYTHONPATH={shlex.quote(str(_TESTS))} exec {_join(words)} "$@"')


def _join(words: list[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


class _InheritedQmp(FakeQmp):
    """A control socket that somebody else has made."""

    def __init__(self, fd: int, *, dies: bool, **behaviour: Any) -> None:
        self._socket = socket.socket(fileno=fd)
        super().__init__(Path(self._socket.getsockname()), **behaviour)
        self._dies = dies

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._accept, sock=self._socket)
        return self

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._dies:
            os.kill(os.getpid(), signal.SIGSEGV)
        await super().converse(reader, writer)

    async def serve_until_quit(self) -> None:
        async with self:
            while self._server is not None:
                await asyncio.sleep(0.02)


def main() -> None:
    behaviour = json.loads(sys.argv[1])
    found = re.search(r"socket,id=qmp,fd=(\d+)", " ".join(sys.argv[2:]))
    assert found is not None
    asyncio.run(_InheritedQmp(int(found[1]), **behaviour).serve_until_quit())


if __name__ == "__main__":
    main()
