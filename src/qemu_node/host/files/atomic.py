"""Atomic writes of files that others read, and errors of the host in words.

Owns every write of the package to a file that another process may read at the same time. Does not
own what the files mean.
"""

import errno
import os
import secrets
from pathlib import Path

from qemu_node.errors import HostError

TEMP_PREFIX = ".tmp-"
"""Prefix of the temporary files of `write_atomic`. Only a killed process leaves one behind."""


def host_error(action: str, path: Path | str, exc: OSError) -> HostError:
    """Return the error that names the action, the file and the reason why the host refused."""
    hint = None
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"free space on the file system of {path}"
    elif exc.errno == errno.EFBIG:
        hint = "give the process a larger file size limit"
    return HostError(f"cannot {action} {path}: {exc.strerror or exc}", hint=hint)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to `fd`, even if the kernel takes only a part at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_atomic(
    path: Path,
    data: bytes,
    *,
    mode: int = 0o644,
    owner: tuple[int, int] | None = None,
    is_durable: bool = False,
) -> None:
    """Make `path` hold exactly `data`. A reader sees the old content or the new, never a part.

    That is true even if we are killed in between.

    Args:
        path: The file. Its directory exists and only we may write to it.
        data: The whole content.
        mode: Permissions of the file, whatever the umask.
        owner: The file's `(uid, gid)`; takes root.
        is_durable: The content survives a power cut. This waits for the disk, for seconds if
            guests keep it busy. Do not use it for what a running VM needs: the VM does not survive
            a power cut either.

    Raises:
        HostError: the host refused a step; `path` is as it was and no temporary file is left.
    """
    temp = path.parent / f"{TEMP_PREFIX}{secrets.token_hex(8)}"
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                write_all(fd, data)
                if owner is not None:
                    os.fchown(fd, *owner)
                os.fchmod(fd, mode)
                if is_durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            temp.replace(path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        if is_durable:
            sync_directory(path.parent)
    except OSError as exc:
        raise host_error("write", path, exc) from exc


def sync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
