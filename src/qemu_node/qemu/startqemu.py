"""Starting QEMU.

Owns what its process is started with. Does not own the command line (`cmdline`), the steps that
drop privileges (`host.process.privileges`), nor finding or ending a process.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.limits import open_files_limit_before_raise
from qemu_node.host.process.command import SAFE_ENV, Child, spawn
from qemu_node.host.process.privileges import launcher_argv

# QEMU makes the VNC socket and the serial log itself: its group may use them, nobody else.
_UMASK = 0o007

# Before 8.2 a sound card without -audiodev looks for a sound server or device of the host
# (audio/audio_legacy.c).
_ENV = {**SAFE_ENV, "QEMU_AUDIO_DRV": "none"}


async def start_qemu(
    argv: Sequence[str],
    *,
    uid: int | None,
    gid: int | None,
    groups: Sequence[int] = (),
    cgroup_procs: Path | None = None,
    stderr_path: Path,
    pass_fds: Sequence[int] = (),
    is_tied: bool = False,
) -> Child:
    """Start QEMU with the fewest rights and return at once; its pid is that of the result.

    Nothing is awaited between the start and the return: a cancelled caller cannot lose the child.

    Args:
        argv: QEMU's whole argv (`build_argv`).
        uid: The user it runs as; None: ours, where we are not root.
        gid: Its group; with `uid`.
        groups: Its supplementary groups, such as that of /dev/kvm; without `uid` they stay ours.
        cgroup_procs: `cgroup.procs` of its cgroup.
        stderr_path: QEMU's words are appended to this file.
        pass_fds: Descriptors that QEMU inherits under the same numbers.
        is_tied: It ends with us, however we end.

    Raises:
        HostError: the log or the process could not be made; nothing was started.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        stderr_fd = os.open(stderr_path, flags, 0o600)
    except OSError as exc:
        raise HostError(f"cannot open QEMU's log {stderr_path}: {exc.strerror}") from exc
    try:
        launcher = launcher_argv(
            argv,
            uid=uid,
            gid=gid,
            groups=() if uid is None else groups,
            cgroup_procs=cgroup_procs,
            umask=_UMASK,
            open_files=open_files_limit_before_raise(),
            ends_with=os.getpid() if is_tied else None,
        )
        return spawn(launcher, env=_ENV, stderr_fd=stderr_fd, pass_fds=pass_fds)
    finally:
        os.close(stderr_fd)
