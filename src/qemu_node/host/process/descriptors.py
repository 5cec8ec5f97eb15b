"""Descriptors of another process: copies of them, taken through its pidfd.

Owns that system call, which Python's library does not have. Does not own what a copy is for.
"""

import ctypes
import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from qemu_node.host.process.identity import ProcessId
from qemu_node.host.process.pidfd import open_pidfd

_PIDFD_GETFD = 438  # the same for all architectures: include/uapi/asm-generic/unistd.h, Linux 5.6

_LOOKED_AT_MAX = 1024


def copy_descriptors(process: ProcessId, device: Path, most: int) -> list[int]:
    """Return copies of the descriptors that `process` has of a device; they are close-on-exec.

    Of the first `most` of them, among the process's first 1024 descriptors: it may have made
    hundreds of thousands, to use up our time and the files that we may open.

    None where the process is gone, and none where we may not look into it: that takes root, or its
    user, and a ptrace scope that allows it (man 2 pidfd_getfd).
    """
    pidfd = open_pidfd(process)
    if pidfd is None:
        return []
    copies: list[int] = []
    try:
        wanted = device.stat().st_rdev
        with os.scandir(f"/proc/{process.pid}/fd") as links:
            for link in islice(links, _LOOKED_AT_MAX):
                # By name first: asking a file itself may wait for its server.
                if len(copies) < most and _target(link) == str(device):
                    copies += _copy(pidfd, int(link.name), wanted)
    except OSError:
        pass  # It has ended meanwhile, or is none of ours to look at.
    finally:
        os.close(pidfd)
    return copies


def close_descriptors(descriptors: Iterable[int]) -> None:
    """Close descriptors, which may take as long as what they are of: use a thread."""
    for descriptor in descriptors:
        os.close(descriptor)


def _target(link: "os.DirEntry[str]") -> str:
    with suppress(OSError):
        return str(Path(link).readlink())
    return ""


def _copy(pidfd: int, descriptor: int, device_number: int) -> list[int]:
    """Return one copy, or none: the process goes on, and may have closed or replaced it."""
    copy: int = ctypes.CDLL(None).syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
    if copy < 0:
        return []
    if os.fstat(copy).st_rdev == device_number:
        return [copy]
    os.close(copy)
    return []
