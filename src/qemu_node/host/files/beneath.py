"""Opening files safely in directories that others may write to.

Owns every such open of the package: none follows a link out of the directory. Does not own what
the files mean.
"""

import contextlib
import ctypes
import errno
import os
import stat
from pathlib import Path

# include/uapi/linux/openat2.h; the number is the same on every architecture but Alpha.
_SYS_OPENAT2 = 437

_RESOLVE_NO_MAGICLINKS = 0x02

_RESOLVE_NO_SYMLINKS = 0x04

_RESOLVE_BENEATH = 0x08

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_beneath(dir_fd: int, relative: str, flags: int, *, mode: int = 0o600) -> int:
    """Open the file `relative` below the directory `dir_fd`, whatever others change in there.

    No symbolic link is followed, not even one that stays inside. The descriptor is close-on-exec.
    Others may have put a FIFO there, and opening a FIFO blocks: pass O_NONBLOCK, and see
    `is_plain_file`.

    Raises:
        OSError: as open(2); ELOOP (or ENOTDIR) for a link in the path, EXDEV for an absolute path
            or "..".
    """
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if relative.startswith("/") or ".." in parts:
        raise OSError(errno.EXDEV, "path leaves its directory", relative)
    if "\0" in relative:
        raise OSError(errno.EINVAL, "path holds a NUL", relative)
    path = "/".join(parts) or "."
    try:
        return _openat2(dir_fd, path, flags | os.O_CLOEXEC, mode)
    except OSError as exc:
        # Old container runtimes answer EPERM to a system call that they do not know.
        if exc.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    return _open_by_component(dir_fd, path, flags | os.O_CLOEXEC, mode)


def _openat2(dir_fd: int, path: str, flags: int, mode: int) -> int:
    how = _OpenHow(
        flags=flags,
        # The kernel refuses a mode without O_CREAT.
        mode=mode if flags & os.O_CREAT else 0,
        resolve=_RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS,
    )
    while True:
        fd = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(dir_fd),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return int(fd)
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code), path)


def _open_by_component(dir_fd: int, path: str, flags: int, mode: int) -> int:
    """Do the same as openat2, with O_NOFOLLOW on each component, for kernels before 5.6."""
    *parents, name = path.split("/")
    with contextlib.ExitStack() as opened:
        for part in parents:
            dir_fd = os.open(
                part,
                os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                dir_fd=dir_fd,
            )
            opened.callback(os.close, dir_fd)
        return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=dir_fd)


def is_plain_file(fd: int) -> bool:
    """Tell whether `fd` is a regular file with one name, not a device, FIFO or hard link."""
    info = os.fstat(fd)
    return stat.S_ISREG(info.st_mode) and info.st_nlink == 1


def read_published(path: Path, *, max_bytes: int = 1 << 20) -> bytes:
    """Return the content of a file that the owner of its directory has written.

    For a directory where others may put files: it follows no link and waits for no FIFO.

    Raises:
        OSError: as open(2); EACCES if the file has another owner or is not a plain file, EFBIG if
            it is larger than `max_bytes`.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not is_plain_file(fd) or os.fstat(fd).st_uid != path.parent.stat().st_uid:
            raise OSError(errno.EACCES, "not a file of its directory's owner", str(path))
        data = os.read(fd, max_bytes + 1)
        if len(data) > max_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return data
    finally:
        os.close(fd)
