import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest
from fakes.fake_screens import FakeFleet
from fakes.fake_serial import VM, FakePort, make_fleet, make_record, until

from qemu_node.host.sockets import listen_unix
from qemu_node.web.viewer.serial import commandline as module
from qemu_node.web.viewer.serial.commandline import CommandLineSockets, may_use
from qemu_node.web.viewer.serial.hub import Hubs
from qemu_node.web.viewer.serial.outbox import OUTBOX_BYTES


@pytest.mark.parametrize(
    ("uid", "gids", "shared_gid", "may"),
    [
        (0, {0}, 990, True),
        (1000, {1000}, 990, False),
        (1000, {1000, 990}, 990, True),
        (999, {1}, None, True),
        (1000, {1000}, None, False),
        (1000, {0}, 990, False),
    ],
)
def test_root_this_user_and_the_group_may(
    uid: int, gids: set[int], shared_gid: int | None, may: bool
) -> None:
    assert may_use(uid, gids, own_uid=999, shared_gid=shared_gid) is may


@pytest.fixture
def fleet(short_tmp_path: Path) -> FakeFleet:
    return make_fleet(short_tmp_path / "s")


@pytest.fixture
def path(short_tmp_path: Path) -> Path:
    return short_tmp_path / "web" / f"{VM.vm_id}.sock"


@pytest.fixture
async def port(short_tmp_path: Path) -> AsyncIterator[FakePort]:
    async with FakePort(short_tmp_path / "s") as port:
        yield port


@pytest.fixture
async def sockets(fleet: FakeFleet, path: Path) -> AsyncIterator[CommandLineSockets]:
    async with (
        Hubs(fleet, linger_s=0.0) as hubs,
        CommandLineSockets(fleet, hubs, path.parent, shared_gid=None) as sockets,
    ):
        await until(path.exists)
        yield sockets


async def join(
    path: Path, mode: str = "control"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"{mode}\n".encode())
    return reader, writer


async def read(reader: asyncio.StreamReader, count: int) -> bytes:
    async with asyncio.timeout(60):
        return await reader.readexactly(count)


@pytest.mark.usefixtures("sockets")
async def test_consoles_share_the_port(port: FakePort, path: Path, fleet: FakeFleet) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    pairs = [await join(path), await join(path), await join(path, "view")]
    for reader, _ in pairs:
        assert await read(reader, 5) == b"open\n"
    assert fleet.viewers == {VM.vm_id: 3}
    await port.print(b"login: ")
    for reader, _ in pairs:
        assert await read(reader, 7) == b"login: "
    pairs[2][1].write(b"reboot\r")
    pairs[0][1].write(b"ro")
    await until(lambda: port.typed == b"ro")
    pairs[1][1].write(b"ot\r")
    await until(lambda: port.typed == b"root\r")
    for _, writer in pairs:
        writer.close()
    await until(lambda: fleet.viewers == {VM.vm_id: 0})
    assert port.connections == 1


@pytest.mark.usefixtures("sockets")
async def test_one_that_does_not_read_is_cut(port: FakePort, path: Path) -> None:
    slow, writer = await join(path)
    assert await read(slow, 5) == b"open\n"
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    with contextlib.suppress(ConnectionError):
        # With the last console the port is given back.
        for _ in range(8 * OUTBOX_BYTES >> 16):
            await port.print(bytes(1 << 16))
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            while await slow.read(1 << 16):
                pass
    writer.close()


@pytest.mark.usefixtures("sockets", "port")
async def test_a_user_whose_name_is_not_found_soon_stops_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, may_answer = threading.Event(), threading.Event()
    was_told: list[bool] = []

    def find(_uid: int) -> NoReturn:
        is_asked.set()
        # By this test's loop, if it is not the loop that waits here.
        was_told.append(may_answer.wait(30))
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", find)
    reader, writer = await join(path)
    await until(is_asked.is_set)
    may_answer.set()
    assert await read(reader, 5) == b"open\n"
    assert was_told == [True]
    writer.close()


@pytest.mark.usefixtures("sockets")
async def test_the_last_words_of_a_guest_arrive_after_its_end(
    port: FakePort, path: Path, fleet: FakeFleet
) -> None:
    reader, writer = await join(path)
    assert await read(reader, 5) == b"open\n"
    # More than sockets hold: some of it waits in this process when the VM ends.
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    words = bytes(range(256)) * 3000
    await port.print(words)
    port.hang_up()
    fleet.end(VM.vm_id, "the guest powered off")
    await until(lambda: not path.exists())
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        assert await reader.read() == words
    writer.close()


@pytest.mark.usefixtures("sockets")
async def test_who_does_not_read_the_last_words_does_not_stay(
    port: FakePort, path: Path, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_WORDS_S", 0.1)
    reader, writer = await join(path)
    assert await read(reader, 5) == b"open\n"
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await port.print(bytes(768_000))
    port.hang_up()
    fleet.end(VM.vm_id, "the guest powered off")
    await until(lambda: fleet.viewers == {VM.vm_id: 0})
    writer.close()


@pytest.mark.usefixtures("sockets", "port")
@pytest.mark.parametrize("line", ["root", "control " * 100_000, ""])
async def test_a_wrong_first_line_ends_the_connection(path: Path, line: str) -> None:
    reader, writer = await join(path, line)
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()


@pytest.mark.usefixtures("sockets", "port")
async def test_strangers_get_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_peer", lambda _: (os.geteuid() + 1, {12345}))
    reader, writer = await join(path)
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()


@pytest.mark.usefixtures("sockets")
async def test_a_port_that_somebody_has_is_not_waited_for(
    path: Path, port: FakePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_taken(_fleet: object, _vm_id: str) -> bool:
        return True

    monkeypatch.setattr("qemu_node.web.viewer.serial.hub.is_taken", is_taken)
    reader, writer = await join(path)
    async with asyncio.timeout(60):
        assert await reader.read() == b"taken\n"
    writer.close()
    assert port.connections == 0


@contextlib.asynccontextmanager
async def console(fleet: FakeFleet, own: Path, other: Path) -> AsyncIterator[Hubs]:
    """A console that shares at `own`, and joins one that shares at `other`."""
    async with (
        Hubs(fleet, linger_s=0.0, others=lambda _: [other]) as hubs,
        CommandLineSockets(fleet, hubs, own.parent, shared_gid=None),
    ):
        await until(own.exists)
        yield hubs


async def test_two_consoles_share_one_port_and_the_second_outlives_the_first(
    fleet: FakeFleet,
    path: Path,
    port: FakePort,
    short_tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def is_taken(_fleet: object, _vm_id: str) -> bool:
        return port.is_used

    monkeypatch.setattr("qemu_node.web.viewer.serial.hub.is_taken", is_taken)
    other = short_tmp_path / "web-run" / path.name
    async with contextlib.AsyncExitStack() as first:
        await first.enter_async_context(console(fleet, path, other))
        async with console(fleet, other, path):
            one, one_writer = await join(path)
            assert await read(one, 5) == b"open\n"
            two, two_writer = await join(other)
            assert await read(two, 5) == b"open\n"
            await port.print(b"login: ")
            assert await read(one, 7) == await read(two, 7) == b"login: "
            two_writer.write(b"root\r")
            await until(lambda: port.typed == b"root\r")
            assert port.connections == 1
            # One that has the port of another console gives it to no third.
            third, third_writer = await join(other, "share")
            assert await read(third, 6) == b"taken\n"
            await first.aclose()
            await until(lambda: port.connections == 2)
            await port.print(b"alone")
            assert await read(two, 5) == b"alone"
            for writer in (one_writer, two_writer, third_writer):
                writer.close()


async def test_a_console_takes_over_the_socket_of_one_that_has_ended(
    fleet: FakeFleet, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TAKE_OVER_S", 0.02)
    path.parent.mkdir()
    earlier = listen_unix(path)
    async with Hubs(fleet) as hubs, CommandLineSockets(fleet, hubs, path.parent, shared_gid=None):
        await asyncio.sleep(0)
        os.close(earlier)
        # Nobody listens there until it is replaced.
        await until(lambda: module._is_served(path))


@pytest.mark.parametrize("mode", [0o775, 0o757])
async def test_nothing_is_shared_in_a_directory_that_others_may_write_to(
    fleet: FakeFleet, path: Path, mode: int
) -> None:
    path.parent.mkdir()
    path.parent.chmod(mode)
    async with Hubs(fleet) as hubs, CommandLineSockets(fleet, hubs, path.parent, shared_gid=None):
        await asyncio.sleep(0)
        assert not list(path.parent.iterdir())


async def test_nothing_is_shared_in_a_directory_of_somebody_else(
    fleet: FakeFleet, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    async with Hubs(fleet) as hubs, CommandLineSockets(fleet, hubs, path.parent, shared_gid=None):
        await asyncio.sleep(0)
        assert not list(path.parent.iterdir())


async def test_sockets_come_and_go_with_their_vms_and_with_the_daemon(
    fleet: FakeFleet, path: Path, short_tmp_path: Path
) -> None:
    path.parent.mkdir()
    stale = path.parent / "old-0123456789ab.sock"
    os.close(listen_unix(stale))
    record = fleet.records.pop(VM.vm_id)
    async with Hubs(fleet) as hubs, CommandLineSockets(fleet, hubs, path.parent, shared_gid=None):
        assert not stale.exists()
        assert not path.exists()
        fleet.begin(VM, record)
        await until(path.exists)
        fleet.end(VM.vm_id, "over")
        await until(lambda: not path.exists())
        fleet.begin(VM, make_record(short_tmp_path / "s"))
        await until(path.exists)
    assert not path.exists()


async def test_another_daemons_socket_stays(fleet: FakeFleet, path: Path) -> None:
    path.parent.mkdir()
    fd = listen_unix(path)
    inode = path.stat().st_ino
    async with Hubs(fleet) as hubs, CommandLineSockets(fleet, hubs, path.parent, shared_gid=None):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert path.stat().st_ino == inode
    os.close(fd)
