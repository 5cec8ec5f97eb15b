"""How large a file another process may make: RLIMIT_FSIZE, read and moved from outside.

Owns the limit of one running process. Does not own what it is for.
"""

import re
import resource
import signal
from pathlib import Path

from qemu_node.host.process.identity import ProcessId, is_alive

_IGNORED_SIGNALS = re.compile(r"^SigIgn:\s*([0-9a-f]+)$", re.MULTILINE)


class NoFileLimitError(Exception):
    """A process cannot be given a limit: it would die of it, or is not ours to change."""


def read_limit(process: ProcessId) -> int | None:
    """Return the size in bytes at which a write of `process` fails; None for no limit.

    Raises:
        NoFileLimitError: it may not be asked, or does not ignore SIGXFSZ.
        ProcessLookupError: it is gone.
    """
    soft = _limits(process)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def set_limit(process: ProcessId, size_bytes: int) -> None:
    """Let writes of `process` beyond `size_bytes` of any regular file fail with EFBIG.

    The hard limit stays, so that the limit can be moved forward again.

    Raises:
        NoFileLimitError: nothing was changed. It belongs to another user and we have no
            CAP_SYS_RESOURCE, has a lower hard limit, or does not ignore SIGXFSZ.
        ProcessLookupError: it is gone.
    """
    _limits(process, (size_bytes, _limits(process)[1]))


def _limits(process: ProcessId, new: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the soft and the hard limit of `process`, and set others if there are `new` ones."""
    _check(process)
    arguments = () if new is None else (new,)
    try:
        return resource.prlimit(process.pid, resource.RLIMIT_FSIZE, *arguments)
    except ProcessLookupError:
        raise
    except (OSError, ValueError) as exc:
        raise NoFileLimitError(str(exc)) from exc


def _check(process: ProcessId) -> None:
    """Refuse a process that the kernel would kill at its limit (man 2 setrlimit)."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(errors="replace")
    except FileNotFoundError as exc:
        raise ProcessLookupError(f"no process {process.pid}") from exc
    except ProcessLookupError:
        raise
    except OSError as exc:
        raise NoFileLimitError(str(exc)) from exc
    # After the read: it was not another process's status.
    if not is_alive(process):
        raise ProcessLookupError(f"no process {process.pid}")
    match = _IGNORED_SIGNALS.search(status)
    if match is None or not int(match[1], 16) >> (signal.SIGXFSZ - 1) & 1:
        raise NoFileLimitError("it does not ignore SIGXFSZ")
