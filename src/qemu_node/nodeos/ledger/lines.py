"""Files with one JSON value a line, of which the oldest are dropped in time.

Owns the format, and our directory on /oem. Does not own what the lines mean.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from qemu_node.host.files.atomic import host_error, write_atomic
from qemu_node.host.files.directories import make_directory
from qemu_node.nodeos.paths import NodePaths
from qemu_node.text import DECODE_ERRORS

T = TypeVar("T")


def read_lines(path: Path, kind: type[T]) -> list[T]:
    """Return the values in `path`, the oldest first; none if there is no such file.

    A line that is damaged is left out: nothing that follows is lost with it.

    Raises:
        HostError: the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise host_error("read", path, exc) from exc
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=kind))
        except DECODE_ERRORS:
            continue
    return found


def write_lines(paths: NodePaths, path: Path, values: Sequence[object], *, most: int) -> None:
    """Write the newest `most` of `values` to `path` in our directory; it survives a power cut.

    Raises:
        HostError: it cannot be written; the file is as it was.
    """
    make_directory(paths.own, 0o700)
    data = b"".join(msgspec.json.encode(value) + b"\n" for value in values[-most:])
    write_atomic(path, data, mode=0o600, is_durable=True)


def now() -> str:
    """Return the time, as it is written down here (RFC 3339)."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
