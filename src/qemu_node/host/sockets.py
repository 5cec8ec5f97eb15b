"""Unix sockets: making listening ones for another process to inherit, and connecting.

Owns the socket file: its replacement, its rights, a path longer than the kernel's limit. Does not
own what is spoken on it. A socket that we make exists before its server runs, so a client never
has to wait until it appears.
"""

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path

from qemu_node.errors import ConfigError, HostError
from qemu_node.host.files.atomic import host_error

# sun_path holds 108 bytes with its NUL (man 7 unix).
SUN_PATH_MAX_BYTES = 107

_BACKLOG = 16
_CONNECT_POLL_S = 0.02


def listen_unix(path: Path, *, mode: int = 0o660, owner: tuple[int, int] | None = None) -> int:
    """Return a listening stream socket at `path`; it is close-on-exec, the caller closes it.

    A socket file that is there already is replaced. Nobody can connect before mode and owner are
    set.

    Args:
        path: The socket file. Its directory exists and only we may write to it.
        mode: Permissions of the socket file, whatever the umask; connecting needs write permission.
        owner: `(uid, gid)` that it is given to, root permitting.

    Raises:
        ConfigError: the file name is too long for any socket.
        HostError: the host refused a step, or `path` is not a socket; no socket is left.
    """
    try:
        directory_fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise host_error("open the directory of socket", path, exc) from exc
    try:
        return _listen(path, _address(path, directory_fd), mode, owner)
    finally:
        os.close(directory_fd)


def _address(path: Path, directory_fd: int) -> str:
    """Return what to bind: `path`, or the same file by way of its directory's descriptor."""
    if len(os.fsencode(path)) <= SUN_PATH_MAX_BYTES:
        return str(path)
    address = f"/proc/self/fd/{directory_fd}/{path.name}"
    if len(os.fsencode(address)) > SUN_PATH_MAX_BYTES:
        raise ConfigError(f"the file name of socket {path} is too long for the kernel")
    return address


def _listen(path: Path, address: str, mode: int, owner: tuple[int, int] | None) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _remove_stale(path)
            sock.bind(address)
            try:
                if owner is not None:
                    os.chown(path, *owner)
                path.chmod(mode)
                # A connect is refused until here, so the mode that bind gave the file let nobody
                # in.
                sock.listen(_BACKLOG)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        except OSError as exc:
            raise host_error("listen on", path, exc) from exc
        return sock.detach()


def _remove_stale(path: Path) -> None:
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise HostError(f"cannot listen on {path}: it exists and is not a socket")
    path.unlink(missing_ok=True)


async def connect_unix(path: Path) -> socket.socket:
    """Return a non-blocking socket connected to `path`; waits while the backlog is full.

    A link at `path` is not followed: where a server makes its socket itself, as QEMU does for VNC,
    it could lead whoever connects to a socket of somebody else.

    Raises:
        OSError: there is no such socket, nobody listens, or we may not use it.
    """
    file_fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(file_fd).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), str(path))
        # The file that was looked at, whatever is at the path by now; and any path is short enough.
        return await _connect(f"/proc/self/fd/{file_fd}")
    finally:
        os.close(file_fd)


async def _connect(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        while True:
            try:
                sock.connect(address)
            except BlockingIOError:
                # The backlog is full. asyncio would take this for a connect in progress, find the
                # socket writable, and return it although it was never connected.
                await asyncio.sleep(_CONNECT_POLL_S)
            else:
                return sock
    except BaseException:
        sock.close()
        raise
