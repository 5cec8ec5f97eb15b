"""The unix sockets by which `qemu-node vm console` shares a VM's serial port with browsers.

Owns one socket for each VM, and who may use it: root, this user, the group `qemu-node`. They are
there from a VM's beginning on: a `vm console` that came first would otherwise have QEMU's port for
itself.

The client sends one line, a `Join`. The answer is one line, a `PortState`; after `open` the
connection is the guest's serial port, without anything that was printed before. Its end says
nothing of the reason: whoever wants to know looks at the VM.

Another console of this node (`qemu-node run` beside the daemon) joins as well, by `Join.SHARE`.
"""

import asyncio
import contextlib
import logging
import os
import pwd
import socket
import stat
import struct
from collections.abc import Collection
from functools import partial
from pathlib import Path

from qemu_node.errors import HostError, NodeError
from qemu_node.host.concurrency.cancellation import finish, race
from qemu_node.host.concurrency.tasks import TaskOwner
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.directories import make_directory
from qemu_node.host.sockets import listen_unix
from qemu_node.inventory.serialport import Join
from qemu_node.web.fleet.model import VMView
from qemu_node.web.viewer.contract import VMs
from qemu_node.web.viewer.serial.hub import Hub, Hubs, Member
from qemu_node.web.viewer.serial.serialtap import READ_BYTES

log = logging.getLogger(__name__)

FIRST_LINE_S = 5.0
LAST_WORDS_S = 10.0
"""How long somebody has to read what the guest said last."""
PORT_S = 5.0
"""How long somebody waits until it is known how it is with the port."""
_LINE_BYTES = 64
_SUFFIX = ".sock"
_SO_PEERGROUPS = 59  # include/uapi/asm-generic/socket.h; Linux 4.13
_GROUPS_MAX = 256  # Of Python's getsockopt; who is in more counts with the first one alone.
_NOBODY = 65534  # /proc/sys/kernel/overflowuid
_JOINS = {f"{how}\n".encode(): how for how in Join}
_TAKE_OVER_S = 5.0
"""How soon the socket of another process of this user, which has ended, is replaced."""
_NO_ROOM_PAUSE_S = 0.5


def may_use(uid: int, gids: Collection[int], *, own_uid: int, shared_gid: int | None) -> bool:
    """Tell whether a user may use the sockets: pure."""
    return uid in (0, own_uid) or (shared_gid is not None and shared_gid in gids)


class CommandLineSockets:
    """Of all VMs of this node; for `async with`."""

    def __init__(self, fleet: VMs, hubs: Hubs, directory: Path, *, shared_gid: int | None) -> None:
        """Serve the VMs of `fleet` in `directory`, to the group `shared_gid` as well."""
        self._fleet = fleet
        self._hubs = hubs
        self._directory = directory
        self._shared_gid = shared_gid
        self._tasks = TaskOwner("serial sockets")
        self._servers: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> "CommandLineSockets":
        try:
            if not self._directory.is_dir():
                make_directory(self._directory, 0o755)
            _check_own(self._directory)
            await asyncio.to_thread(_remove_stale, self._directory)
        except (NodeError, OSError) as exc:
            log.warning("`vm console` cannot share serial ports", extra={"error": str(exc)})
            return self
        self._fleet.on_begin(self._begin)
        self._fleet.on_end(self._note_end)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._tasks.aclose()

    def _begin(self, vm_id: str) -> None:
        if vm_id in self._servers:
            self._servers[vm_id].cancel()
        name = f"socket of {vm_id}"
        with contextlib.suppress(RuntimeError):
            self._servers[vm_id] = self._tasks.start(self._serve(vm_id), name=name)

    def _note_end(self, vm: VMView) -> None:
        if (server := self._servers.pop(vm.vm_id, None)) is not None:
            server.cancel()

    async def _serve(self, vm_id: str) -> None:
        path = self._directory / f"{vm_id}{_SUFFIX}"
        if _is_served(path):
            log.info("another console shares this serial port", extra={"vm_id": vm_id})
        # Nobody tells us when it ends.
        while _is_served(path):  # noqa: ASYNC110
            await asyncio.sleep(_TAKE_OVER_S)
        is_shared = self._shared_gid is not None
        owner = (os.geteuid(), self._shared_gid) if self._shared_gid is not None else None
        try:
            fd = listen_unix(path, mode=0o660 if is_shared else 0o600, owner=owner)
        except NodeError as exc:
            log.warning("no socket for `vm console`", extra={"vm_id": vm_id, "error": str(exc)})
            return
        sock = socket.socket(fileno=fd)
        sock.settimeout(0)
        try:
            while True:
                client = await _accept(sock)
                # They outlive the socket: what the guest said last is still on its way to them.
                _ = self._tasks.start(self._meet(vm_id, client), name=f"console of {vm_id}")
        finally:
            # In this order: whoever finds nobody here makes a socket of its own at this path.
            await to_the_end(partial(path.unlink, missing_ok=True))
            sock.close()

    async def _meet(self, vm_id: str, client: socket.socket) -> None:
        uid, gids = _peer(client)
        if not may_use(uid, gids, own_uid=os.geteuid(), shared_gid=self._shared_gid):
            client.close()
            log.warning("refused a console", extra={"vm_id": vm_id, "uid": uid})
            return
        try:
            # From here on its transport owns the socket. Closing it below that one would leave its
            # descriptor in the selector: the next connection with that number would fail.
            reader, writer = await asyncio.open_unix_connection(sock=client, limit=READ_BYTES)
        except BaseException:
            client.close()
            raise
        try:
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                # In a thread: the user may be one of a directory service that does not answer.
                await self._share(vm_id, await to_the_end(_name_of, uid), reader, writer)
        finally:
            await finish(_close(writer))

    async def _share(
        self, vm_id: str, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with asyncio.timeout(FIRST_LINE_S):
            how = _JOINS.get(await reader.readline())
        if how is None:
            return
        may_type = how is not Join.VIEW
        if how is Join.SHARE:
            name = "another console"
        joined = self._hubs.joined(vm_id, name, may_type=may_type)
        with self._fleet.viewing(vm_id), joined as (hub, member):
            ask = hub.shareable if how is Join.SHARE else hub.settled
            state = await ask(PORT_S)
            writer.write(f"{state}\n".encode())
            await writer.drain()
            if state != "open":
                return
            _ = hub.begin(member)
            log.info("console opened", extra={"vm_id": vm_id, "user": name, "may_type": may_type})
            _ = await race(
                _receive(hub, member, reader),
                _send(member, writer),
                member.outbox.cut.wait(),
                _end_in_time(member),
            )
            if member.outbox.cut.is_set():
                # What waits for it in the kernel would keep the connection open.
                writer.transport.abort()
        log.info("console closed", extra={"vm_id": vm_id, "user": name})


async def _receive(hub: Hub, member: Member, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(READ_BYTES):
        hub.type(member, data)


async def _send(member: Member, writer: asyncio.StreamWriter) -> None:
    async for frame in member.outbox.frames():
        if isinstance(frame, bytes):
            writer.write(frame)
            await writer.drain()


async def _end_in_time(member: Member) -> None:
    """Return some time after the port's end: whoever does not read does not stay for ever."""
    await member.outbox.ended.wait()
    await asyncio.sleep(LAST_WORDS_S)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, after what was written was read, or some time."""
    writer.close()
    try:
        async with asyncio.timeout(LAST_WORDS_S):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()


async def _accept(sock: socket.socket) -> socket.socket:
    """Return the next client, also after errors: no descriptor is free, or a client has gone."""
    while True:
        try:
            return (await asyncio.get_running_loop().sock_accept(sock))[0]
        except OSError as exc:
            log.warning("no console can connect", extra={"error": str(exc)})
            await asyncio.sleep(_NO_ROOM_PAUSE_S)


def _check_own(directory: Path) -> None:
    """Refuse a directory in which others can replace what we make there.

    Raises:
        HostError: it belongs to somebody else, or others may write to it.
    """
    status = directory.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not is_ours or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise HostError(f"{directory} is not only ours to write to")


def _peer(client: socket.socket) -> tuple[int, set[int]]:
    """Return the user who connected, and all of his groups."""
    _, uid, gid = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    groups = b""
    with contextlib.suppress(OSError):
        groups = client.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS_MAX)
    return uid, {gid, *struct.unpack(f"{len(groups) // 4}I", groups)}


def _name_of(uid: int) -> str:
    with contextlib.suppress(KeyError):
        # In the daemon's user namespace (PrivateUsers=) all others are nobody.
        if uid != _NOBODY:
            return f"{pwd.getpwuid(uid).pw_name} (vm console)"
    return "vm console"


def _is_served(path: Path) -> bool:
    """Tell whether somebody listens at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _remove_stale(directory: Path) -> None:
    """Remove the sockets of a daemon that was killed."""
    for path in directory.glob(f"*{_SUFFIX}"):
        if path.is_socket() and not _is_served(path):
            path.unlink(missing_ok=True)
