"""Users of this host: the processes that run as them, and the claim to run processes as one.

Owns finding processes by their user, the number of a group, and the claim that keeps two drivers
from running VMs as the same user. Does not own which users there are (`vm.record.leases`).
"""

import contextlib
import grp
import os
import re
import threading
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import host_error, write_all
from qemu_node.host.files.directories import make_directory
from qemu_node.host.files.lock import try_lock
from qemu_node.host.process.identity import ProcessId, boot_id, identify, read_proc

CLAIMS_DIR = Path("/run/qemu-node-users")
"""One directory for the whole host, whatever node.toml says, because two drivers share it."""

_HOLDER_MAX_BYTES = 8192

_REAP_TRIES = 5
_REAP_PAUSE_S = 0.01

_UIDS = re.compile(r"^Uid:\s+(\d+)\s+(\d+)", re.MULTILINE)
"""Of /proc/PID/status: the real and the effective uid. No name of a process has a line break."""


class UserClaim:
    """The right of one holder to run processes as a user of this host.

    It is a flock on `CLAIMS_DIR/<uid>`. Processes that inherit the descriptor hold it as well, so
    it ends with the last of them, however we end. The file names the holder: a directory, whose
    files may belong to the user for as long as it exists.
    """

    def __init__(self, uid: int, fd: int) -> None:
        self.uid = uid
        self.fd = fd
        """For the processes that run as the user to inherit."""

    @classmethod
    def take(cls, uid: int, holder: Path) -> "UserClaim | None":
        """Return the claim of `holder` on `uid`; None if another holder has it.

        Raises:
            HostError: a process runs as `uid` without a claim, or the host refused.
        """
        path = CLAIMS_DIR / str(uid)
        try:
            fd = _lock(path, os.O_CREAT)
            if fd is None:
                return None
            claim = cls(uid, fd)
            try:
                other = _read_holder(fd)
                if other not in (None, holder) and other.is_dir():
                    claim.close()
                    return None
                _check_unused(uid)
                _write_holder(path, holder)
            except BaseException:
                claim.close()
                raise
        except OSError as exc:
            raise host_error("claim the user of", path, exc) from exc
        return claim

    def close(self) -> None:
        """Close our descriptor. Idempotent. The claim ends when the last descriptor is closed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def holder_of(uid: int) -> Path | None:
    """Return the last holder of a claim on `uid`; None if there was none since the host booted."""
    with contextlib.suppress(OSError):
        fd = os.open(CLAIMS_DIR / str(uid), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return _read_holder(fd)
        finally:
            os.close(fd)
    return None


def claimed_users() -> dict[int, Path]:
    """Return the users that are claimed now, with their holders; empty if we may not read them."""
    found = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir(CLAIMS_DIR):
            if entry.name.isdigit() and is_claimed(uid := int(entry.name)):
                holder = holder_of(uid)
                if holder is not None:
                    found[uid] = holder
    return found


def is_claimed(uid: int) -> bool:
    """Tell whether a process that runs as `uid`, or will, holds the claim on it."""
    with contextlib.suppress(OSError):
        fd = _lock(CLAIMS_DIR / str(uid))
        if fd is None:
            return True
        os.close(fd)
    return False


def drop_claim(uid: int, holder: Path, give_up: Callable[[], None]) -> None:
    """Call `give_up` and remove the record of `holder`'s claim, unless the claim is held.

    Nobody can take it in between.

    Raises:
        OSError: the host refused.
    """
    path = CLAIMS_DIR / str(uid)
    fd = _lock(path, os.O_CREAT)
    if fd is None:
        return
    try:
        give_up()
        if _read_holder(fd) in (None, holder):
            path.unlink()
    finally:
        os.close(fd)


def _lock(path: Path, flags: int = 0) -> int | None:
    """Return a descriptor that holds the lock on `path`; None if another one holds it.

    Read-only: the processes that inherit it must not write.
    """
    if flags & os.O_CREAT:
        make_directory(path.parent, 0o700)
    return try_lock(path, os.O_RDONLY | flags)


def _read_holder(fd: int) -> Path | None:
    boot, _, holder = os.pread(fd, _HOLDER_MAX_BYTES, 0).partition(b"\n")
    # Where /run survives a reboot, a claim of an earlier boot says nothing about today's
    # processes.
    return Path(os.fsdecode(holder)) if holder and boot == boot_id().encode() else None


def _write_holder(path: Path, holder: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        write_all(fd, b"%s\n%s" % (boot_id().encode(), os.fsencode(holder)))
    finally:
        os.close(fd)


def _check_unused(uid: int) -> None:
    for process in processes_of_user(uid):
        raise HostError(
            f"user id {uid} was meant for a VM, but process {process.pid} runs as it",
            hint="set qemu.first_uid in node.toml to a range of ids that nobody else here uses",
        )


def processes_of_user(uid: int) -> list[ProcessId]:
    """Return the processes that run as `uid`. Quick if there are none, otherwise it blocks."""
    # The kernel counts a zombie until its parent reaps it, which most parents do at once. That is
    # quicker to wait for than reading every process.
    for _ in range(_REAP_TRIES):
        try:
            os.getpriority(os.PRIO_USER, uid)
        except ProcessLookupError:
            return []
        time.sleep(_REAP_PAUSE_S)
    return [process for _, process in processes_of_users((uid,))]


def processes_of_users(uids: Container[int]) -> list[tuple[int, ProcessId]]:
    """Return the processes that run as one of `uids`, with that user id; no zombies.

    Reads the status of every process: too slow for the event loop. Threads that ask at the same
    time share one look.
    """
    found = []
    for pid, uid in _LOOK.users_since(time.monotonic()):
        if uid in uids and (process := identify(pid)) is not None:
            found.append((uid, process))
    return found


class _Look:
    """A look at all processes; a thread that has to wait for another's takes what it finds."""

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._began_at = 0.0
        self._users: list[tuple[int, int]] = []

    def users_since(self, moment: float) -> list[tuple[int, int]]:
        """Return each process and its user, by a look that began after `moment`."""
        with self._looking:
            if self._began_at <= moment:
                self._began_at = time.monotonic()
                self._users = list(_users_of_processes())
            return self._users


_LOOK = _Look()


def _users_of_processes() -> Iterator[tuple[int, int]]:
    """Yield the pid and the user of each process.

    The owner of a process's directory in /proc would be quicker to read, but a process can make
    that root (PR_SET_DUMPABLE, man 2 prctl).
    """
    for name in os.listdir("/proc"):  # noqa: PTH208 - names alone, no paths
        if name.isdigit():
            try:
                match = _UIDS.search(read_proc(f"/proc/{name}/status"))
            except OSError:
                continue
            assert match is not None, "man 5 proc_pid_status"
            real, uid = int(match[1]), int(match[2])
            # Not a set-uid program: the user who started it chose its command line.
            if real == uid:
                yield int(name), uid


def group_id(name: str) -> int | None:
    """Return the number of a group; None if there is no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def own_group(name: str) -> int | None:
    """Return the number of a group that we may give files to; None if there is none."""
    gid = group_id(name)
    if gid is None or os.geteuid() == 0 or gid in (os.getegid(), *os.getgroups()):
        return gid
    return None


def pids_of_users(uids: range) -> set[int]:
    """Return the processes that run as one of `uids`; see `processes_of_users`."""
    return {process.pid for _, process in processes_of_users(uids)}
