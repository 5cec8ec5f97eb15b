"""Host files: atomic writes, locks, opens that cannot be led astray, holes, removal.

Owns every write of the package to a file that somebody else may read at the same time, and every
open below a directory that somebody else may write to. Does not own what the files mean.
"""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from qemu_node.errors import HostError

TEMP_PREFIX = ".tmp-"
"""How the temporary files of `write_atomic` begin: only a killed process leaves one behind."""

_LOCK_POLL_S = 0.02
_LOCK_POLL_MAX_S = 0.25

# include/uapi/linux/openat2.h; the number is the same on every architecture but Alpha.
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

# include/uapi/linux/falloc.h
_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02

_SYNC_FILE_RANGE_WRITE = 0x02  # man 2 sync_file_range

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class LockBusyError(HostError):
    """Somebody else holds the lock and did not let go in time; nothing was changed."""


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def host_error(action: str, path: Path | str, exc: OSError) -> HostError:
    """Return the error that says which action on which file the host refused, and why."""
    hint = None
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"free space on the file system of {path}"
    elif exc.errno == errno.EFBIG:
        hint = "give the process a larger file size limit"
    return HostError(f"cannot {action} {path}: {exc.strerror or exc}", hint=hint)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to `fd`, however few bytes the kernel takes at a time."""
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
    """Make `path` hold exactly `data`; a reader sees the old content or the new, never a part.

    That holds whatever kills us in between.

    Args:
        path: The file. Its directory exists and is ours alone to write.
        data: The whole content.
        mode: Permissions of the file, whatever the umask.
        owner: `(uid, gid)` that it is given to, root permitting.
        is_durable: It holds after a power cut, too. That waits for the disk, for seconds where
            guests keep it busy: not for what a VM needs, which does not outlive the power either.

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
            _sync_directory(path.parent)
    except OSError as exc:
        raise host_error("write", path, exc) from exc


def _sync_directory(path: Path) -> None:
    """Make a rename in `path` survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class FileLock:
    """A lock between processes, and between tasks of one: flock(2) on a file of mode 0600.

    Held as long as the descriptor is open, hence released by the kernel when the holder dies. The
    file stays when the lock is released; if somebody removes it meanwhile, the next holder makes a
    new one and nobody holds the old one without knowing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def try_acquire(self) -> bool:
        """Take the lock if it is free now; False where anybody, this object included, holds it.

        Raises:
            HostError: the lock file cannot be made or opened.
        """
        while self._fd is None:
            try:
                fd = os.open(
                    self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
                )
            except OSError as exc:
                raise host_error("open lock", self.path, exc) from exc
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            except OSError as exc:
                os.close(fd)
                raise host_error("lock", self.path, exc) from exc
            if self._is_current(fd):
                self._fd = fd
                return True
            os.close(fd)
        return False

    def _is_current(self, fd: int) -> bool:
        """Tell whether the locked file is still the one that the path names."""
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self.path))
        except FileNotFoundError:
            return False

    async def acquire(self, timeout_s: float) -> None:
        """Take the lock, waiting at most `timeout_s` for its holder. Cancelling is harmless.

        Raises:
            LockBusyError: it was held all the time.
            HostError: the lock file cannot be made or opened.
        """
        for pause_s in self._attempts(timeout_s):
            await asyncio.sleep(pause_s)

    @contextlib.contextmanager
    def hold_blocking(self, timeout_s: float) -> Generator[None]:
        """Hold the lock inside the block, waiting for it as `acquire` does, but in a thread."""
        for pause_s in self._attempts(timeout_s):
            time.sleep(pause_s)
        try:
            yield
        finally:
            self.release()

    def _attempts(self, timeout_s: float) -> Iterator[float]:
        """Try until the lock is ours; yield how long to sleep before each further attempt.

        Polled: a thread blocked in flock() could neither be cancelled nor given a deadline.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = _LOCK_POLL_S
        while not self.try_acquire():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise LockBusyError(f"{self.path} was locked for {timeout_s:g} s")
            yield min(pause_s, left_s)
            pause_s = min(pause_s * 1.5, _LOCK_POLL_MAX_S)

    def release(self) -> None:
        """Let go of the lock; harmless where it is not held."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    @contextlib.asynccontextmanager
    async def hold(self, timeout_s: float) -> AsyncGenerator[None]:
        """Hold the lock inside the block, waiting for it as `acquire` does."""
        await self.acquire(timeout_s)
        try:
            yield
        finally:
            self.release()

    def __enter__(self) -> Self:
        if not self.try_acquire():
            raise LockBusyError(f"{self.path} is locked by somebody else")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def open_beneath(dir_fd: int, relative: str, flags: int, *, mode: int = 0o600) -> int:
    """Open the file `relative` below the directory `dir_fd`, whatever others do to that directory.

    No symbolic link is followed, not even one that stays inside, and nothing leads out. The
    descriptor is close-on-exec. Whoever may write to the directory may also have put a FIFO there,
    whose opening blocks: pass O_NONBLOCK, and see `is_plain_file`.

    Raises:
        OSError: as open(2); ELOOP (or ENOTDIR) for a link on the way, EXDEV for an absolute path or
            "..".
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
        # EPERM is also what old container runtimes answer to a system call that they do not know.
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
    """Do what openat2 does with O_NOFOLLOW on each component, for kernels before 5.6."""
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
    """Return a file that the owner of its directory has written.

    For a directory where others may put files, too: no link is followed, no FIFO waited for.

    Raises:
        OSError: as open(2); EACCES where the file is somebody else's or no plain file, EFBIG where
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


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Give `length` bytes from `offset` back to the file system; they read as NUL, the size stays.

    Whole blocks become free; what the range covers of others is only zeroed.

    Returns:
        False where the file system cannot do it (nothing was changed).

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
    """Let the disk begin with what was written to a range, so that a later fsync(2) is short.

    A hint: nothing is promised of what is on stable storage, and a refusal is no error. May block
    while the disk has more to do than it takes.
    """
    _libc.sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


def seek_data(fd: int, offset: int) -> int | None:
    """Return where data begins at or after `offset`; None where only a hole follows.

    Moves the descriptor's position: read with `os.pread`. A file system that does not know its
    holes reports everything as data (man 2 lseek).
    """
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return None
        raise


def remove_tree(path: Path) -> None:
    """Remove `path` and all below it; a link is removed, never followed. Missing is fine.

    Raises:
        HostError: something could not be removed; the rest may be gone.
    """
    # A file that its own process removes at the same moment makes one walk fail, not the next.
    for attempts_left in (2, 1, 0):
        try:
            if stat.S_ISDIR(path.lstat().st_mode):
                _remove_directory(path)
            else:
                path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            if exc.errno == errno.ENOTEMPTY and attempts_left:
                continue
            raise host_error("remove", exc.filename or path, exc) from exc
        return
    if os.path.lexists(path):
        raise HostError(f"cannot remove {path}: others keep changing it")


def _remove_directory(path: Path) -> None:
    """Remove a directory and all below it, with two files open however deep that is.

    A directory gives those that it holds to `path`: whoever made the tree may have nested it deeper
    than a walk down can go (shutil.rmtree keeps a file open for each level).
    """
    top = _open_in(None, path)
    try:
        names = os.listdir(top)  # noqa: PTH208 - of a descriptor
        while names:
            name = names.pop()
            if not _is_unlinked(top, name):
                names += _empty_into(top, name)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    path.rmdir()


def _empty_into(top: int, name: str) -> list[str]:
    """Remove the files of directory `name`; return the names that its directories have got."""
    moved = []
    directory = _open_in(top, name)
    try:
        for inner in os.listdir(directory):  # noqa: PTH208 - of a descriptor
            if not _is_unlinked(directory, inner):
                moved.append(f"{TEMP_PREFIX}{secrets.token_hex(8)}")
                os.rename(inner, moved[-1], src_dir_fd=directory, dst_dir_fd=top)
    finally:
        os.close(directory)
    return moved


def _open_in(parent: int | None, name: Path | str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=parent)


def _is_unlinked(directory: int, name: str) -> bool:
    """Remove `name` from `directory` and return True; False where it is a directory."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        return False
    return True


def free_bytes(path: Path) -> int:
    """Return the bytes that an unprivileged process may still write to the file system of `path`.

    Raises:
        HostError: there is no such path.
    """
    try:
        info = os.statvfs(path)
    except OSError as exc:
        raise host_error("read the free space of", path, exc) from exc
    return info.f_bavail * info.f_frsize
