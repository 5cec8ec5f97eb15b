"""Short tools on hostile files, run with access only to that one file of the host.

Owns which isolation this host allows, the process from its start to its end, and the limit on what
it prints. Does not own how it drops its privileges (`privileges`) nor what it is for.

Without namespaces, as in most containers, only the limits and, as root, the other user remain. The
log says so once.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence

from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.process.command import Child, Completed, ProcessError, spawn
from qemu_node.host.process.pidfd import wait_gone
from qemu_node.host.process.privileges import (
    CONFINED_LINE,
    Isolation,
    ToolLimits,
    confined_argv,
    input_path,
)
from qemu_node.units import KIB, MIB

log = logging.getLogger(__name__)

SANDBOX_UID = 65_533
"""A user that nothing else uses, unlike `nobody`: systemd and Debian leave 65520 to 65533
unused."""

_OUTPUT_MAX_BYTES = MIB
_WORDS_MAX_BYTES = 4 * KIB
_SIGNAL_BASE = 128  # a shell adds it to the number of the signal that killed its child

Tool = Callable[[str], Sequence[str]]
"""Returns the command line for the path at which the tool will find the file."""


class _NotConfinedError(ProcessError):
    """A step of the launcher failed; the tool did not begin."""


class Sandbox:
    """Runs tools, each on one file, within `limits` and the best isolation of this host."""

    def __init__(self, limits: ToolLimits) -> None:
        self._limits = limits
        is_root = os.geteuid() == 0
        self._uid = SANDBOX_UID if is_root else None
        self._best = Isolation.NAMESPACES if is_root else Isolation.USER_NAMESPACE
        self._is_fallback_logged = False

    async def run(self, tool: Tool, file_fd: int, *, timeout_s: float) -> Completed:
        """Run `tool` on the regular file open as `file_fd`; return the beginning of its output.

        As root the tool runs as another user, and the file must be readable by that user. The exit
        code of a tool that a signal killed is the signal's number, negated. Cancelling kills the
        tool.

        Raises:
            MissingPartError: the launcher's own programs are missing.
            ProcessError: it could not be confined, or did not end within `timeout_s`; it is gone.
        """
        try:
            return await self._run(tool, self._best, file_fd, timeout_s)
        except _NotConfinedError as exc:
            if not self._is_fallback_logged:
                log.warning(
                    "no namespaces for the tools that read images: only limits and another user",
                    extra={"error": str(exc)},
                )
            self._is_fallback_logged = True
        return await self._run(tool, Isolation.NONE, file_fd, timeout_s)

    async def _run(
        self, tool: Tool, isolation: Isolation, file_fd: int, timeout_s: float
    ) -> Completed:
        argv = confined_argv(
            tool(input_path(isolation)), isolation=isolation, limits=self._limits, uid=self._uid
        )
        with contextlib.ExitStack() as opened:
            # Files, not pipes, so that the kernel limits what the tool can print.
            stdout_fd, stderr_fd = (os.memfd_create(name) for name in ("stdout", "stderr"))
            opened.callback(os.close, stdout_fd)
            opened.callback(os.close, stderr_fd)
            child = spawn(argv, stdin_fd=file_fd, stdout_fd=stdout_fd, stderr_fd=stderr_fd)
            try:
                async with asyncio.timeout(timeout_s):
                    await wait_gone(child.process)
            except TimeoutError as exc:
                raise ProcessError(argv, f"did not end within {timeout_s:g} s") from exc
            finally:
                status = await finish(_end(child))
            words = os.pread(stderr_fd, _WORDS_MAX_BYTES, 0)
            if not words.startswith(CONFINED_LINE):
                raise _NotConfinedError(argv, "could not confine", words.decode(errors="replace"))
            return Completed(
                returncode=status,
                stdout=os.pread(stdout_fd, _OUTPUT_MAX_BYTES, 0),
                stderr=words.removeprefix(CONFINED_LINE),
            )


async def _end(child: Child) -> int:
    """Kill the tool if it still runs, reap it, and return its exit code, -N for signal N."""
    status = child.exit_status()
    if status is None:
        child.kill_group()
        await wait_gone(child.process)
        status = child.exit_status()
        assert status is not None  # Gone, and nobody but us can have reaped it.
    return _SIGNAL_BASE - status if status > _SIGNAL_BASE else status
