"""Holes in files, and writing a file's data to the disk early."""

import ctypes
import errno
import os

# include/uapi/linux/falloc.h
_FALLOC_FL_KEEP_SIZE = 0x01

_FALLOC_FL_PUNCH_HOLE = 0x02

_SYNC_FILE_RANGE_WRITE = 0x02  # man 2 sync_file_range

_libc = ctypes.CDLL(None, use_errno=True)

_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Free the blocks of `length` bytes from `offset`. They read as NUL; the size stays.

    Only whole blocks become free. The rest of the range is zeroed.

    Returns:
        False if the file system cannot do it; nothing was changed.

    Raises:
        OSError: it failed for another reason.
    """
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    while _libc.fallocate(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Start writing a range to the disk, so that a later fsync(2) is short.

    This is a hint: it promises nothing about stable storage, and a refusal is not an error. It may
    block while the disk is busy.
    """
    _libc.sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


def seek_data(fd: int, offset: int) -> int | None:
    """Return where data begins at or after `offset`; None if only a hole follows.

    It moves the descriptor's position, so read with `os.pread`. A file system that does not know
    its holes reports everything as data (man 2 lseek).
    """
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return None
        raise
