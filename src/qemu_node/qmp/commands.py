"""The QMP commands that this program uses, typed.

Owns their spelling and the shape of their replies. Does not own what follows from a reply. QMP is
never passed through: no other command is reachable from outside.
"""

import contextlib
import os
import secrets
from typing import TypeVar

import msgspec

from qemu_node.errors import QmpError
from qemu_node.qmp.connection import QmpClosedError, QmpConnection
from qemu_node.qmp.events import StatusInfo

T = TypeVar("T")

SCREENSHOT_MAX_BYTES = 64 << 20
"""More than any screen needs; what a QEMU taken over by its guest writes is not read whole."""

_SCREENDUMP_TIMEOUT_S = 15.0
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class VersionTriple(msgspec.Struct, frozen=True):
    """QAPI VersionTriple."""

    major: int
    minor: int
    micro: int


class _AddedFd(msgspec.Struct):
    fd: int


class _VersionInfo(msgspec.Struct):
    qemu: VersionTriple


class _BlockInfo(msgspec.Struct, rename="kebab"):
    """QAPI BlockInfo, of which the rest concerns nobody here."""

    io_status: str = ""
    """QAPI BlockDeviceIoStatus, of devices that know one; `cont` resets it."""


async def query_status(connection: QmpConnection, *, timeout_s: float = 5.0) -> StatusInfo:
    """Return what QEMU does with its guest.

    Raises:
        QmpError: no usable answer; the guest may be in any state.
    """
    return _convert(
        await connection.execute("query-status", timeout_s=timeout_s), StatusInfo, "query-status"
    )


async def query_version(connection: QmpConnection) -> VersionTriple:
    """Return the version of the QEMU that runs, which may be older than the one installed.

    Raises:
        QmpError: no usable answer.
    """
    reply = await connection.execute("query-version")
    return _convert(reply, _VersionInfo, "query-version").qemu


async def is_out_of_space(connection: QmpConnection) -> bool:
    """Tell whether a disk's last write failed because the host's file system was full.

    Raises:
        QmpError: no usable answer.
    """
    reply = await connection.execute("query-block")
    blocks = _convert(reply, list[_BlockInfo], "query-block")
    return any(block.io_status == "nospace" for block in blocks)


async def system_powerdown(connection: QmpConnection) -> None:
    """Press the ACPI power button. A guest may ignore it; one that is still booting does.

    Raises:
        QmpError: QEMU did not confirm it.
    """
    await connection.execute("system_powerdown")


async def system_reset(connection: QmpConnection) -> None:
    """Press the reset button; the guest begins again at its firmware.

    Raises:
        QmpError: QEMU did not confirm it.
    """
    await connection.execute("system_reset")


async def cont(connection: QmpConnection) -> None:
    """Let a paused guest go on.

    Raises:
        QmpError: QEMU did not confirm it, or refused: a guest that ended cannot go on.
    """
    await connection.execute("cont")


async def quit(connection: QmpConnection) -> None:  # noqa: A001 - the command's name
    """Make QEMU leave; the guest is not asked. Returns when QEMU has taken the command.

    Raises:
        QmpError: QEMU did not confirm it, or the connection was closed before.
    """
    was_open = connection.is_open
    try:
        await connection.execute("quit")
    except QmpClosedError:
        # QEMU may be gone before its answer is.
        if not was_open:
            raise


async def screendump_png(connection: QmpConnection) -> bytes:
    """Return the picture on the guest's first screen as a PNG file.

    QEMU writes it into memory of ours, so it needs no directory that both may write to.

    Raises:
        QmpError: there is no screen, QEMU has no PNG support, or it did not answer.
    """
    fd = os.memfd_create("screendump")
    try:
        await _screendump(connection, fd)
        if os.fstat(fd).st_size > SCREENSHOT_MAX_BYTES:
            raise QmpError("QEMU's screenshot is too large")
        picture = os.pread(fd, SCREENSHOT_MAX_BYTES, 0)
    finally:
        os.close(fd)
    if not picture.startswith(_PNG_SIGNATURE):
        raise QmpError("QEMU's screenshot is not a PNG file")
    return picture


async def _screendump(connection: QmpConnection, fd: int) -> None:
    """Make QEMU write its screen to `fd`, and forget the descriptor."""
    # Chosen by us: the set can be removed even if the answer that names it never came. At random:
    # sets belong to the whole QEMU, and another client's must not be hit.
    fdset_id = (1 << 30) + secrets.randbelow(1 << 30)
    try:
        reply = await connection.execute("add-fd", {"fdset-id": fdset_id}, fds=[fd])
        # Not /dev/fdset: what is opened by that name QEMU books until it closes it by a function of
        # its own, which its PNG writer does not (ui/console.c, png_save): a leak per screenshot.
        added = _convert(reply, _AddedFd, "add-fd").fd
        await connection.execute(
            "screendump",
            {"filename": f"/proc/self/fd/{added}", "format": "png"},
            timeout_s=_SCREENDUMP_TIMEOUT_S,
        )
    finally:
        # QEMU before 9.1 lets go of it only while the guest runs, or when its last client leaves.
        with contextlib.suppress(QmpError):
            await connection.execute("remove-fd", {"fdset-id": fdset_id})


def _convert(reply: object, kind: type[T], command: str) -> T:
    try:
        return msgspec.convert(reply, kind)
    except (msgspec.ValidationError, RecursionError) as exc:
        raise QmpError(f"QEMU's answer to {command} is malformed: {exc}") from exc
