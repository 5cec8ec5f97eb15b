"""The room on a file system, and the reserve that is kept of it.

Owns when there is too little of it for something new. Does not own what is refused for that, nor
what is removed to make room. The reserve is there for what runs already: guests that write to
their disks, and the driver's own files.
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
"""Removes what others can do without, until so many bytes are free; blocks for that.

Raises a NodeError where it cannot."""


class DiskReserveError(HostError):
    """What was asked for would take room that is kept in reserve; nothing was begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpace:
    """A file system's room, in bytes."""

    free_bytes: int
    """What an unprivileged process may still write."""
    total_bytes: int

    def has_room(self, wanted_bytes: int, reserve: Share) -> bool:
        """Tell whether `wanted_bytes` more leave the reserve, a share of the whole, untouched."""
        return self.free_bytes - wanted_bytes >= reserve.of(self.total_bytes)


def read_space(path: Path) -> DiskSpace:
    """Return the room on the file system of `path`, or where `path` would be made.

    Raises:
        HostError: it cannot be found out.
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
    """Leave all as it is."""


def require_free(
    path: Path, wanted_bytes: int, reserve: Share, make_room: MakeRoom = make_no_room
) -> None:
    """Return where `wanted_bytes` more on the file system of `path` leave `reserve` of it free.

    With 0 bytes it tells whether anything new may begin at all. It is no reservation. Blocks for
    one statvfs(2), and for `make_room` before it refuses.

    Raises:
        DiskReserveError: they would not; recoverable, as space may return.
        HostError: it cannot be found out.
    """
    space = read_space(path)
    if space.has_room(wanted_bytes, reserve):
        return
    try:
        make_room(wanted_bytes + reserve.of(space.total_bytes))
    except NodeError as exc:
        # That the disk is full is what counts.
        log.warning("no room made", extra={"path": str(path), "error": str(exc)})
    space = read_space(path)
    if space.has_room(wanted_bytes, reserve):
        return
    kept = reserve.of(space.total_bytes)
    wanted = f" and {format_size(wanted_bytes)} are wanted" if wanted_bytes else ""
    raise DiskReserveError(
        f"the disk of {path} is full: {format_size(space.free_bytes)} are free{wanted}, and "
        f"{format_size(kept)} are kept in reserve",
        hint="free space there, or set disk.reserve in node.toml",
    )
