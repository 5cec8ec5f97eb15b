"""The QMP commands that this package uses, typed.

Owns their names and the types of their replies. Does not own what follows from a reply. QMP is not
passed through: no other command can be sent from outside. Every function raises `QmpError` if QEMU
gives no usable answer: then nobody knows whether it has carried the command out.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterable
from typing import Literal, TypeVar

import msgspec

from qemu_node.errors import QmpError
from qemu_node.qmp.connection import QmpClosedError, QmpConnection, QmpRefusedError
from qemu_node.qmp.events import StatusInfo

T = TypeVar("T")

SCREENSHOT_MAX_BYTES = 32 << 20
"""More than a 4K screen of noise needs (3840 x 2160 x 3 bytes). It bounds what a QEMU that its
guest has taken over can write."""

_SCREENDUMP_TIMEOUT_S = 15.0
_BALLOON = "/machine/peripheral/balloon0"
_NOT_SAID = (1 << 64) - 1
_REMOVE_FD_TIMEOUT_S = 1.0
_KEYBOARD_COUNT = re.compile(r"^IRQ statistics for ioapic:\n(?: *\d+: \d+\n)*? *1: (\d+)$", re.M)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class VersionTriple(msgspec.Struct, frozen=True):
    """QAPI VersionTriple."""

    major: int
    minor: int
    micro: int


class _AddedFd(msgspec.Struct):
    fd: int


class _HumanReadableText(msgspec.Struct, rename={"text": "human-readable-text"}):
    text: str


class _VersionInfo(msgspec.Struct):
    qemu: VersionTriple


class _MemorySize(msgspec.Struct, rename="kebab"):
    """QAPI MemoryInfo."""

    base_memory: int
    plugged_memory: int = 0


class _BalloonStats(msgspec.Struct, rename="kebab"):
    """`stat-…` of a guest's memory in bytes; 2^64 - 1: the guest does not say."""

    stat_total_memory: int = _NOT_SAID
    stat_available_memory: int = _NOT_SAID


class _GuestStats(msgspec.Struct, rename="kebab"):
    """The property `guest-stats` of a balloon (QEMU, docs/interop/virtio-balloon-stats.rst)."""

    stats: _BalloonStats
    last_update: int = 0


class MemoryUse(msgspec.Struct, frozen=True, kw_only=True):
    """How much memory a guest uses, by its own account."""

    used_bytes: int
    said_at: int
    """When it said so; Unix time."""


class _BlockInfo(msgspec.Struct, rename="kebab"):
    """QAPI BlockInfo; other members are not needed."""

    io_status: str = ""
    """QAPI BlockDeviceIoStatus, if the device has one; `cont` resets it."""


async def query_status(connection: QmpConnection, *, timeout_s: float = 5.0) -> StatusInfo:
    """Return the guest's run state.

    Raises:
        QmpError: there was no usable answer; the guest may be in any state.
    """
    return _convert(
        await connection.execute("query-status", timeout_s=timeout_s), StatusInfo, "query-status"
    )


async def query_version(connection: QmpConnection) -> VersionTriple:
    """Return the version of this QEMU, which may be older than the installed one."""
    reply = await connection.execute("query-version")
    return _convert(reply, _VersionInfo, "query-version").qemu


async def is_out_of_space(connection: QmpConnection) -> bool:
    """Tell whether a disk's last write failed because the host's file system was full."""
    reply = await connection.execute("query-block")
    blocks = _convert(reply, list[_BlockInfo], "query-block")
    return any(block.io_status == "nospace" for block in blocks)


async def query_memory_size(connection: QmpConnection) -> int | None:
    """Return how many bytes of RAM the guest has; None if QEMU does not say."""
    try:
        reply = await connection.execute("query-memory-size-summary")
    except QmpRefusedError:
        return None
    size = _convert(reply, _MemorySize, "query-memory-size-summary")
    return size.base_memory + size.plugged_memory


async def poll_memory_use(connection: QmpConnection, interval_s: int) -> None:
    """Have the guest say every `interval_s` how much memory it uses; 0: not any more.

    Raises:
        QmpRefusedError: the VM has no balloon.
        QmpError: QEMU did not confirm it.
    """
    await connection.execute(
        "qom-set",
        {"path": _BALLOON, "property": "guest-stats-polling-interval", "value": interval_s},
    )


async def query_memory_use(connection: QmpConnection) -> MemoryUse | None:
    """Return how many bytes the guest uses, by its own account; None if it has not said.

    That is what it has less what its programs could still get. See `poll_memory_use`.

    Raises:
        QmpRefusedError: the VM has no balloon, or the guest no driver for it.
        QmpError: no usable answer.
    """
    reply = await connection.execute("qom-get", {"path": _BALLOON, "property": "guest-stats"})
    answer = _convert(reply, _GuestStats, "qom-get guest-stats")
    total, available = answer.stats.stat_total_memory, answer.stats.stat_available_memory
    if not answer.last_update or not 0 <= available <= total < _NOT_SAID:
        return None
    return MemoryUse(used_bytes=total - available, said_at=answer.last_update)


async def system_powerdown(connection: QmpConnection) -> None:
    """Press the ACPI power button. A guest may ignore it, and does while it boots."""
    await connection.execute("system_powerdown")


async def system_reset(connection: QmpConnection) -> None:
    """Press the reset button; the guest begins again at its firmware."""
    await connection.execute("system_reset")


async def cont(connection: QmpConnection) -> None:
    """Resume a paused guest.

    Raises:
        QmpError: QEMU did not confirm it, or refused: a guest that has ended cannot be resumed.
    """
    await connection.execute("cont")


async def quit(connection: QmpConnection) -> None:  # noqa: A001 - the command's name
    """Make QEMU exit without asking the guest. Returns when QEMU has accepted the command.

    Raises:
        QmpError: QEMU did not confirm it, or the connection was closed before.
    """
    was_open = connection.is_open
    try:
        await connection.execute("quit")
    except QmpClosedError:
        # QEMU may exit before we have read its answer.
        if not was_open:
            raise


async def screendump_png(connection: QmpConnection) -> bytes:
    """Return a screenshot of the guest's first display as a PNG file.

    QEMU writes it to a memfd of ours, so no directory is needed that both can write to.

    Raises:
        QmpError: there is no display, QEMU has no PNG support, or it did not answer.
    """
    fd = os.memfd_create("screendump")
    try:
        await screendump(connection, fd, "png")
        if os.fstat(fd).st_size > SCREENSHOT_MAX_BYTES:
            raise QmpError("QEMU's screenshot is too large")
        picture = os.pread(fd, SCREENSHOT_MAX_BYTES, 0)
    finally:
        os.close(fd)
    if not picture.startswith(_PNG_SIGNATURE):
        raise QmpError("QEMU's screenshot is not a PNG file")
    return picture


async def screendump(
    connection: QmpConnection,
    fd: int,
    picture: Literal["png", "ppm"],
    *,
    timeout_s: float = _SCREENDUMP_TIMEOUT_S,
) -> None:
    """Make QEMU write the guest's first display to `fd`, then remove the descriptor from QEMU.

    What is written has whatever size the guest's screen has: look before you read.

    Args:
        connection: To the VM's QEMU.
        fd: Of an empty memfd; the caller closes it.
        picture: The format. A PNG takes ten times a PPM's CPU time, in QEMU's main loop.
        timeout_s: Limit for the picture.

    Raises:
        QmpError: there is no display, QEMU lacks the format, or it did not answer.
    """
    # We choose the id, so that the set can be removed even if the answer was lost. It is random,
    # because all clients of a QEMU share its sets.
    fdset_id = (1 << 30) + secrets.randbelow(1 << 30)
    try:
        reply = await connection.execute(
            "add-fd", {"fdset-id": fdset_id}, fds=[fd], timeout_s=timeout_s
        )
        # Not /dev/fdset: QEMU counts what is opened by that name until its own close function is
        # called, which its PNG writer does not do (ui/console.c, png_save). Each screenshot would
        # leak a descriptor.
        added = _convert(reply, _AddedFd, "add-fd").fd
        await connection.execute(
            "screendump",
            {"filename": f"/proc/self/fd/{added}", "format": picture},
            timeout_s=timeout_s,
        )
    finally:
        # QEMU before 9.1 closes it only while the guest runs, or when the last client disconnects.
        # A QEMU that hangs carries this out later: it is sent in any case.
        with contextlib.suppress(QmpError):
            await connection.execute(
                "remove-fd", {"fdset-id": fdset_id}, timeout_s=_REMOVE_FD_TIMEOUT_S
            )


async def input_send_event(connection: QmpConnection, keys: Iterable[tuple[str, bool]]) -> None:
    """Press and release keys of the guest's keyboard, all in one call.

    A guest that does not run gets none of them, and QEMU says nothing of that (ui/input.c). A PS/2
    keyboard holds 16 bytes that its guest has not read; a key takes two to five.

    Args:
        connection: To the VM's QEMU.
        keys: QAPI QKeyCode, and whether it goes down.
    """
    events = [
        {"type": "key", "data": {"down": is_down, "key": {"type": "qcode", "data": qcode}}}
        for qcode, is_down in keys
    ]
    await connection.execute("input-send-event", {"events": events})


async def is_serial_taken(connection: QmpConnection, *, timeout_s: float = 2.0) -> bool | None:
    """Tell whether somebody is connected to the guest's serial port; None if QEMU does not say."""
    return has_client(await connection.execute("query-chardev", timeout_s=timeout_s), "serial0")


async def is_monitor_taken(connection: QmpConnection, *, timeout_s: float = 2.0) -> bool | None:
    """Tell whether somebody is connected to the monitor for consoles; None if QEMU does not say.

    Raises:
        QmpError: QEMU did not answer in time.
    """
    return has_client(await connection.execute("query-chardev", timeout_s=timeout_s), "console")


def has_client(chardevs: object, label: str) -> bool | None:
    """Return what `query-chardev` says of the socket `label`: pure; None if it says nothing.

    The name of a socket without a client begins so (QEMU, chardev/char-socket.c,
    update_disconnected_filename).
    """
    if not isinstance(chardevs, list):
        return None
    for chardev in chardevs:
        if isinstance(chardev, dict) and chardev.get("label") == label:
            return not str(chardev.get("filename", "")).startswith("disconnected:")
    return None


async def count_keyboard_interrupts(connection: QmpConnection) -> int | None:
    """Return how often the PS/2 keyboard has interrupted the guest: once for each byte it read.

    None if this QEMU does not count them: KVM's own interrupt controller does not, and the command
    is experimental (qapi/machine.json, `x-query-irq`).
    """
    try:
        reply = await connection.execute("x-query-irq")
    except QmpRefusedError:
        return None
    text = _convert(reply, _HumanReadableText, "x-query-irq").text
    found = _KEYBOARD_COUNT.search(text)
    return None if found is None else int(found[1])


def _convert(reply: object, kind: type[T], command: str) -> T:
    try:
        return msgspec.convert(reply, kind)
    except (msgspec.ValidationError, RecursionError) as exc:
        raise QmpError(f"QEMU's answer to {command} is malformed: {exc}") from exc
