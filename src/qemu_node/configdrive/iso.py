"""The config drive's file: an ISO whose names Linux and Windows both read.

Owns which names are possible, and who may read the file. Does not own the format (`iso9660`).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from qemu_node.configdrive.iso9660 import build_image
from qemu_node.errors import JobError
from qemu_node.host.files import atomic

VOLUME_LABEL = "config-2"
"""The label by which cloud-init (DataSourceConfigDrive) and cloudbase-init find the drive."""

MAX_DEPTH = 8
"""ISO 9660 has eight levels, the root included (ECMA-119 6.8.2.1). Rock Ridge would relocate deeper
directories."""

# Joliet 3.4 allows 64 UCS-2 characters, and excludes some. In UTF-8, with what else Rock Ridge has,
# a name must fit a directory record (254 bytes).
_NAME_MAX_BYTES = 64
_JOLIET_EXCLUDED = frozenset('*/:;?\\"<>|')
_JOLIET_MAX_PATH_BYTES = 240


def write_iso(path: Path, files: Mapping[str, bytes], owner: tuple[int, int] | None) -> None:
    """Write `files` to the ISO `path`, which `owner` alone may read.

    Raises:
        JobError: Joliet cannot represent the name of a file; nothing was written.
        HostError: the host refused; nothing is left of the file.
    """
    for name in files:
        _check_name(name)
        for parent in Path(name).parents:
            if str(parent) in files:
                raise JobError(f"config drive: {str(parent)!r} must be a directory, not a file")
    # It may contain passwords: only the VM's user may read it, and no user may write it.
    atomic.write_atomic(
        path, build_image(VOLUME_LABEL, files, datetime.now(UTC)), mode=0o400, owner=owner
    )


def _check_name(path: str) -> None:
    parts = path.split("/")
    for part in parts:
        # UCS-2 has no characters outside the BMP, nor those of a name that cannot be decoded.
        is_ucs2 = all(ord(c) < 0x10000 and not 0xD800 <= ord(c) < 0xE000 for c in part)
        is_allowed = part.isprintable() and not _JOLIET_EXCLUDED & set(part)
        if part in ("", ".", "..") or not is_ucs2 or not is_allowed:
            raise JobError(
                f"config drive: the name {path!r} cannot be on an ISO that Windows reads"
            )
        if len(part.encode()) > _NAME_MAX_BYTES:
            raise JobError(
                f"config drive: {path!r} has a name longer than {_NAME_MAX_BYTES} bytes in UTF-8"
            )
    if len(parts) > MAX_DEPTH or len(path) * 2 > _JOLIET_MAX_PATH_BYTES:
        raise JobError(f"config drive: the path {path!r} is too long or too deep for an ISO")
