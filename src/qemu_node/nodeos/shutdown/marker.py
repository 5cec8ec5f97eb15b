"""The file that says that we have drained this node: kept over the reboot, on /oem.

Owns reading and writing it. It is written before the drain begins, so a drain of ours is always
known as ours; a marker without a drain is harmless.
"""

import secrets

from qemu_node.host.files.atomic import host_error, write_atomic
from qemu_node.host.files.directories import make_directory
from qemu_node.nodeos.paths import NodePaths

_MAX_CHARS = 100


def read_marker(paths: NodePaths) -> str | None:
    """Return the marker; None if there is none.

    Raises:
        HostError: it cannot be read.
    """
    try:
        with paths.drained.open("rb") as file:
            return file.read(_MAX_CHARS).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise host_error("read", paths.drained, exc) from exc


def write_marker(paths: NodePaths) -> str:
    """Write a new marker, so that it survives a power cut, and return it.

    Raises:
        HostError: it cannot be written.
    """
    marker = secrets.token_hex(8)
    make_directory(paths.own, 0o700)
    write_atomic(paths.drained, f"{marker}\n".encode(), mode=0o600, is_durable=True)
    return marker


def remove_marker(paths: NodePaths) -> None:
    """Remove the marker, if there is one.

    Raises:
        HostError: it cannot be removed.
    """
    try:
        paths.drained.unlink(missing_ok=True)
    except OSError as exc:
        raise host_error("remove", paths.drained, exc) from exc
