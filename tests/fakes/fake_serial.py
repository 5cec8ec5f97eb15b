"""QEMU's end of a serial port, and viewers of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

from unit.web.fleet.test_model import vm

from fakes.fake_screens import FakeFleet
from fakes.unix_peer import UnixPeer
from qemu_node.errors import QmpError
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.record.record import VMRecord
from qemu_node.web.access.session.grant import Grant
from qemu_node.web.fleet.model import VMView

VM = vm()


class FakePort(UnixPeer):
    """A guest's serial port: what it prints goes to the client, what is typed is remembered."""

    def __init__(self, path: Path, *, takes_input: bool = True) -> None:
        super().__init__(path)
        self.typed = bytearray()
        self._takes_input = takes_input
        self._writer: asyncio.StreamWriter | None = None
        self._is_open = asyncio.Event()

    @property
    def is_used(self) -> bool:
        """Whether a client is served."""
        return self._is_open.is_set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._is_open.set()
        if not self._takes_input:
            await asyncio.Event().wait()
        try:
            while data := await reader.read(1 << 16):
                self.typed += data
        finally:
            self._is_open.clear()

    async def print(self, data: bytes) -> None:
        """Print, as soon as somebody is there; return when it is on its way."""
        async with asyncio.timeout(60):
            await self._is_open.wait()
            assert self._writer is not None
            self._writer.write(data)
            await self._writer.drain()

    def hang_up(self) -> None:
        """End the connection, as a QEMU that exits does."""
        assert self._writer is not None
        self.stop_listening()
        self._writer.close()


class SilentFleet(FakeFleet):
    """A fleet whose QEMUs do not answer on their monitors."""

    @asynccontextmanager
    async def monitor(self, vm_id: str) -> AsyncIterator[QmpConnection]:
        if vm_id not in self.monitors:
            raise QmpError(f"no monitor of {vm_id}")
        yield self.monitors[vm_id]


def make_fleet(path: Path) -> FakeFleet:
    """Return a fleet with `VM`, whose serial port is at `path`."""
    fleet = SilentFleet()
    fleet.vms[VM.vm_id] = VM
    fleet.records[VM.vm_id] = make_record(path)
    return fleet


def make_record(path: Path) -> VMRecord:
    """Return what is needed here of a VM's record."""
    record: VMRecord = SimpleNamespace(sockets=SimpleNamespace(serial=str(path)))  # type: ignore[assignment]
    return record


async def no_log(_vm: VMView, _grant: Grant) -> bytes:
    return b""


async def until(condition: object) -> None:
    """Return once `condition()` holds."""
    assert callable(condition)
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)
