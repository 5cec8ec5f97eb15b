"""The free space of a file system, and the reserve that is kept of it.

Owns whether there is enough for something new. Does not own what is refused otherwise, nor what is
removed to make room. The reserve is for what runs already: guests that write to their disks, and
the driver's own files.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import HostError, NodeError
from qemu_node.host.files.atomic import host_error
from qemu_node.units import Share, format_size

log = logging.getLogger(__name__)

MakeRoom = Callable[[int], None]
"""Removes what is not needed, until so many bytes are free. Blocks.

Raises a NodeError if it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpace:
    """A file system's space, in bytes."""

    free_bytes: int
    """What an unprivileged process can still write."""
    total_bytes: int

    def has_room(self, wanted_bytes: int, reserve: Share) -> bool:
        """Tell whether writing `wanted_bytes` more leaves the reserve, a share of the whole."""
        return self.free_bytes - wanted_bytes >= reserve.of(self.total_bytes)


def read_space(path: Path) -> DiskSpace:
    """Return the space of the file system on which `path` is, or would be made.

    Raises:
        HostError: the host did not say.
    """
    place = path
    while True:
        try:
            info = os.statvfs(place)
        except FileNotFoundError:
            place = place.parent
        except OSError as exc:
            raise host_error("read the free space of", path, exc) from exc
        else:
            return DiskSpace(
                free_bytes=info.f_bavail * info.f_frsize,
                total_bytes=info.f_blocks * info.f_frsize,
            )


def make_no_room(_needed_bytes: int) -> None:
    """Remove nothing."""


def require_free(
    path: Path, wanted_bytes: int, reserve: Share, make_room: MakeRoom = make_no_room
) -> None:
    """Return if the file system of `path` has room for `wanted_bytes` beside its `reserve`.

    With 0 bytes it tells whether anything new may begin. It reserves nothing. Blocks for one
    statvfs(2), and for `make_room` before it refuses.

    Raises:
        HostError: it has not, which is recoverable as space may become free; or the host did not
            say.
    """
    space = read_space(path)
    if space.has_room(wanted_bytes, reserve):
        return
    try:
        make_room(wanted_bytes + reserve.of(space.total_bytes))
    except NodeError as exc:
        # The error that counts is that the disk is full.
        log.warning("no room made", extra={"path": str(path), "error": str(exc)})
    space = read_space(path)
    if space.has_room(wanted_bytes, reserve):
        return
    kept = reserve.of(space.total_bytes)
    wanted = f" and {format_size(wanted_bytes)} are wanted" if wanted_bytes else ""
    raise HostError(
        f"the disk of {path} is full: {format_size(space.free_bytes)} are free{wanted}, and "
        f"{format_size(kept)} are kept in reserve",
        hint="free space there, or set disk.reserve in node.toml",
    )
