"""Limits of processes: how many files one may have open, and how large a file it may write.

Owns RLIMIT_NOFILE of this process and of others, and RLIMIT_FSIZE of others. Does not own what the
limits are for, nor what is refused if they are too low.
"""

import contextlib
import os
import re
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

from qemu_node.host.process.identity import ProcessId, is_alive

_FDS = Path("/proc/self/fd")
_MAX_OPEN_FILES = re.compile(r"^Max open files\s+(\d+)", re.MULTILINE)
_IGNORED_SIGNALS = re.compile(r"^SigIgn:\s*([0-9a-f]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFiles:
    """Descriptors of a process."""

    used: int
    limit: int
    """The soft limit, at which open(2) fails with EMFILE."""

    @property
    def free(self) -> int:
        """How many more it may open."""
        return self.limit - self.used


_before_raise: int | None = None


def raise_open_files_limit() -> None:
    """Raise this process's soft limit of open files to its hard limit.

    A service's soft limit is 1024 (man 5 systemd.exec, LimitNOFILE), because of programs that use
    select(2). Give the processes that this one starts `open_files_limit_before_raise` back.
    """
    global _before_raise
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # It fails if fs.nr_open was lowered below the hard limit meanwhile.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            _before_raise = soft


def open_files_limit_before_raise() -> int | None:
    """Return the soft limit that this process was started with; None if it was not raised."""
    return _before_raise


def read_open_files() -> OpenFiles:
    """Return what this process has open. Before Linux 6.2 it takes 0.3 ms for 1000 files.

    Raises:
        OSError: not one more file can be opened.
    """
    # The directory's size is the number of descriptors since Linux 6.2 (fs/proc/fd.c), and was 0.
    used = _FDS.stat().st_size
    if used == 0:
        # Without the descriptor that lists them.
        used = len(os.listdir(_FDS)) - 1  # noqa: PTH208 - names alone, no paths
    return OpenFiles(used=used, limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def read_open_files_limit(pid: int) -> int | None:
    """Return the soft limit of open files of another process; None if the process is gone."""
    # Not prlimit(2): any user may read this file.
    try:
        text = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return None
    match = _MAX_OPEN_FILES.search(text)
    return None if match is None else int(match[1])


class NoFileSizeLimitError(Exception):
    """A process cannot be given a limit: it would die of it, or we may not change it."""


def read_file_size_limit(process: ProcessId) -> int | None:
    """Return the size in bytes at which a write of `process` fails; None for no limit.

    Raises:
        NoFileSizeLimitError: we may not ask, or the process does not ignore SIGXFSZ.
        ProcessLookupError: it is gone.
    """
    soft = _file_size_limits(process)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def set_file_size_limit(process: ProcessId, size_bytes: int) -> None:
    """Let writes of `process` beyond `size_bytes` of any regular file fail with EFBIG.

    The hard limit stays, so that the limit can be raised again.

    Raises:
        NoFileSizeLimitError: nothing was changed. The process belongs to another user and we have
            no CAP_SYS_RESOURCE, it has a lower hard limit, or it does not ignore SIGXFSZ.
        ProcessLookupError: it is gone.
    """
    _file_size_limits(process, (size_bytes, _file_size_limits(process)[1]))


def _file_size_limits(process: ProcessId, new: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the soft and the hard limit of `process`; set `new` ones if they are given."""
    _check_survives(process)
    arguments = () if new is None else (new,)
    try:
        return resource.prlimit(process.pid, resource.RLIMIT_FSIZE, *arguments)
    except ProcessLookupError:
        raise
    except (OSError, ValueError) as exc:
        raise NoFileSizeLimitError(str(exc)) from exc


def _check_survives(process: ProcessId) -> None:
    """Raise for a process that the kernel would kill at its limit (man 2 setrlimit)."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(errors="replace")
    except FileNotFoundError as exc:
        raise ProcessLookupError(f"no process {process.pid}") from exc
    except ProcessLookupError:
        raise
    except OSError as exc:
        raise NoFileSizeLimitError(str(exc)) from exc
    # After the read, so that the status was not another process's.
    if not is_alive(process):
        raise ProcessLookupError(f"no process {process.pid}")
    match = _IGNORED_SIGNALS.search(status)
    if match is None or not int(match[1], 16) >> (signal.SIGXFSZ - 1) & 1:
        raise NoFileSizeLimitError("it does not ignore SIGXFSZ")
