"""The factory reset: the system of the recovery partition, with empty logs and, if wanted, data.

Owns its order on /oem and carrying it out in the recovery system. Power may fail at any step: as
long as the order is there, the boot loader is told to boot the recovery system once more. Does not
own what Elemental resets. Settings on /oem (keys, password, host name, uplink) stay: without
them nobody could log in.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec

from qemu_node.errors import HostError, NodeError
from qemu_node.host.files.atomic import host_error, write_atomic
from qemu_node.host.files.reading import read_or_empty
from qemu_node.host.process.command import run, run_blocking
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.setup.choice import disk_key
from qemu_node.nodeos.setup.disks import DATA_LABEL, Disk, Volume
from qemu_node.nodeos.setup.install import format_data
from qemu_node.nodeos.snapshots import grubenv
from qemu_node.nodeos.snapshots.verdict import NEXT_ENTRY
from qemu_node.text import DECODE_ERRORS

_TOOL_S = 60.0
_RESET_S = 3600.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to reset beside the system and its logs."""

    erases_data: bool = False


def order_reset(paths: NodePaths, order: Order) -> None:
    """Write the order, and let the next boot be one of the recovery system.

    Raises:
        NodeError: nothing was ordered.
    """
    write_atomic(paths.reset, msgspec.json.encode(order), mode=0o600, is_durable=True)
    try:
        boot_recovery(paths)
    except NodeError:
        cancel_reset(paths)
        raise


def boot_recovery(paths: NodePaths) -> None:
    """Let the next boot, and only that, be one of the recovery system.

    Raises:
        NodeError: GRUB's variables cannot be written.
    """
    grubenv.update(paths.grubenv, {NEXT_ENTRY: "recovery"})


def cancel_reset(paths: NodePaths) -> None:
    """Take the order back.

    Raises:
        NodeError: /oem cannot be written.
    """
    try:
        paths.reset.unlink(missing_ok=True)
    except OSError as exc:
        raise host_error("remove", paths.reset, exc) from exc
    grubenv.update(paths.grubenv, {NEXT_ENTRY: None})


def read_order(paths: NodePaths) -> Order | None:
    """Return the order; None if there is none.

    Raises:
        HostError: it cannot be read.
    """
    try:
        return msgspec.json.decode(paths.reset.read_bytes(), type=Order)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise host_error("read", paths.reset, exc) from exc
    except DECODE_ERRORS as exc:
        raise HostError(f"{paths.reset} is damaged", hint=f"rm {paths.reset}") from exc


def data_volumes(disks: Sequence[Disk], key: str) -> list[Volume]:
    """Return the file systems DATA of this node, by the remembered link of their disk: pure."""
    return [
        volume
        for disk in disks
        if not key or disk_key(disk) == key
        for volume in disk.volumes
        if volume.label == DATA_LABEL
    ]


async def carry_out(paths: NodePaths, order: Order, disks: Sequence[Disk]) -> None:
    """Reset the node, in the recovery system.

    Raises:
        NodeError: a step failed; the order is still there, and the next boot tries again.
    """
    await asyncio.to_thread(boot_recovery, paths)
    argv = [str(paths.elemental), "reset", "--reset-persistent"]
    await run(argv, timeout_s=_RESET_S, env=None)
    if order.erases_data:
        await asyncio.to_thread(_erase_data, paths, disks)
    await asyncio.to_thread(cancel_reset, paths)


def _erase_data(paths: NodePaths, disks: Sequence[Disk]) -> None:
    found = data_volumes(disks, read_or_empty(paths.data_disk))
    if len(found) != 1:
        names = " and ".join(volume.path for volume in found) or "none"
        raise HostError(f"which file system DATA is to be erased is not clear: {names}")
    with contextlib.suppress(NodeError):  # not mounted
        run_blocking(["umount", found[0].path], timeout_s=_TOOL_S)
    format_data(found[0].path)
