"""QEMU processes of this node: starting one, finding those that run.

Owns the match between a process and a VM. Does not own the command line (`cmdline`), the steps that
drop privileges (`host.privileges`), nor ending a process.
"""

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.openfiles import limit_before_raise
from qemu_node.host.privileges import launcher_argv
from qemu_node.host.process import SAFE_ENV, Child, ProcessId, command_line, identify, spawn

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
            open_files=limit_before_raise(),
        )
        return spawn(launcher, env=_ENV, stderr_fd=stderr_fd, pass_fds=pass_fds)
    finally:
        os.close(stderr_fd)


def match_vm_id(argv: Sequence[str], vm_data_dir: Path) -> str | None:
    """Return the id of the VM that a process with this argv runs, None where it runs none of ours.

    It must name its guest and use a file in that guest's directory below `vm_data_dir`. A launcher
    that has yet to become QEMU carries the same words and counts.
    """
    for option, value in pairwise(argv):
        if option != "-name" or not value.startswith("guest="):
            continue
        vm_id = value.removeprefix("guest=").partition(",")[0]
        # As the path stands inside a JSON string, where quotes and backslashes are escaped.
        directory = json.dumps(f"{vm_data_dir}/{vm_id}/", ensure_ascii=False)[1:-1]
        if vm_id and any(directory in arg for arg in argv):
            return vm_id
    return None


def find_qemu_processes(vm_data_dir: Path) -> list[tuple[str, ProcessId]]:
    """Return every process that runs a VM with its files below `vm_data_dir`, with the VM's id."""
    found: list[tuple[str, ProcessId]] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        process = identify(pid)
        if process is None:
            continue
        vm_id = match_vm_id(command_line(pid), vm_data_dir)
        # Asked again: the pid may have passed to another process between the two readings.
        if vm_id is not None and identify(pid) == process:
            found.append((vm_id, process))
    return found
