"""Starting processes.

Owns every process start of the package. Does not own what a process is for.

Two kinds of start. `run` is for short tools: it waits, bounded by a timeout, and reports failure
with the end of the tool's stderr. `spawn` is for processes that must outlive us (QEMU): they have
a session of their own and no pipes, and are waited for through a pidfd. Neither uses asyncio's
subprocess transports, which SIGKILL a live child when the event loop is torn down (seen on CPython
3.11 and 3.13), nor a fork that runs Python code in the child, which gRPC's threads make unsafe:
`subprocess` gets only arguments with which it uses vfork.
"""

import asyncio
import contextlib
import logging
import os
import select
import selectors
import shlex
import signal
import subprocess  # noqa: TID251 - the one module that may
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import HostError, MissingPartError
from qemu_node.host.concurrency.cancellation import finish
from qemu_node.host.process.exitstatus import describe_exit, with_last_words
from qemu_node.host.process.identity import ProcessId, read_stat

log = logging.getLogger(__name__)

SAFE_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""The default environment of a child: it has none of the agent's secrets."""


OUTPUT_MAX_BYTES = 64 << 20
"""What a tool may print."""

_CHUNK_BYTES = 64 << 10


class _FloodError(Exception):
    """The tool prints more than it may."""


class ProcessError(HostError):
    """A tool failed or did not end in time; it no longer runs."""

    def __init__(self, argv: Sequence[str], reason: str, stderr: str = "") -> None:
        self.argv = tuple(argv)
        self.reason = reason
        self.stderr = stderr
        super().__init__(with_last_words(f"{Path(argv[0]).name} {reason}", stderr))


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A tool that ended: its exit code and what it printed."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Child:
    """A process that we started and that may outlive us.

    Keep the object: only the parent can learn a process's exit status.
    """

    def __init__(self, process: ProcessId) -> None:
        self.process = process
        self._status: int | None = None

    def exit_status(self) -> int | None:
        """Return the exit code, -N for death by signal N, None while it runs. Reaps the child.

        It stays None if other code has reaped the child, as a library's SIGCHLD handler may.
        """
        if self._status is None:
            try:
                pid, status = os.waitpid(self.process.pid, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid != 0:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def kill_group(self) -> None:
        """SIGKILL it and what it started, except what left its process group."""
        # Once it is reaped, another process may have its pid.
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def spawn(
    argv: Sequence[str],
    *,
    stderr_fd: int,
    stdin_fd: int | None = None,
    stdout_fd: int | None = None,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> Child:
    """Start a process in a session of its own that keeps running when we end.

    Args:
        argv: The program and its arguments.
        stderr_fd: Its stderr, and its stdout unless `stdout_fd` is given.
        stdin_fd: What it reads; `/dev/null` by default.
        stdout_fd: Where stdout goes instead of `stderr_fd`.
        pass_fds: Descriptors it inherits under the same numbers.
        env: Its whole environment; `SAFE_ENV` by default.

    Raises:
        MissingPartError: the program is missing or may not be executed; nothing was started.
        ProcessError: the kernel refused the start; nothing was started.
    """
    _log_argv("spawn", argv)
    try:
        popen = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if stdin_fd is None else stdin_fd,
            stdout=stderr_fd if stdout_fd is None else stdout_fd,
            stderr=stderr_fd,
            pass_fds=tuple(pass_fds),
            env=dict(SAFE_ENV if env is None else env),
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as exc:
        raise MissingPartError(f"cannot start {argv[0]}: {exc.strerror}") from exc
    except OSError as exc:
        raise ProcessError(argv, f"could not be started: {exc.strerror}") from exc
    # A child cannot vanish before we reap it, so its stat can be read even if it ended at once.
    fields = read_stat(popen.pid)
    start_time = int(fields[19]) if fields is not None else 0
    # From here on we wait for the process by its pid. A Popen that is dropped while its process
    # runs would warn, and keep it in a list that any later Popen polls and reaps.
    popen.returncode = 0
    return Child(ProcessId(pid=popen.pid, start_time=start_time))


def _log_argv(event: str, argv: Sequence[str]) -> None:
    # To quote QEMU's hundred words takes as long as a short system call for each.
    if log.isEnabledFor(logging.DEBUG):
        log.debug(event, extra={"argv": shlex.join(argv)})


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 60.0,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> Completed:
    """Run a short tool until it ends, and return what it printed.

    Cancelling kills the tool and all that it started, and returns once it is gone. So it writes
    nothing more while the caller undoes its work.

    Raises:
        MissingPartError: the tool is not installed.
        ProcessError: it exited non-zero (with `check`), or was killed because `timeout_s` passed
            or it printed more than `OUTPUT_MAX_BYTES`.
    """
    popen = _start_tool(argv, env)
    loop = asyncio.get_running_loop()
    work = loop.run_in_executor(None, _finish_tool, popen, argv, stdin, timeout_s)
    try:
        done = await asyncio.shield(work)
    except asyncio.CancelledError:
        _kill_group(popen)
        with contextlib.suppress(Exception):
            await finish(work)
        raise
    return _checked(argv, done) if check else done


def run_blocking(
    argv: Sequence[str],
    *,
    timeout_s: float = 60.0,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> Completed:
    """Do what `run` does, but block: for command-line code without an event loop."""
    done = _finish_tool(_start_tool(argv, env), argv, stdin, timeout_s)
    return _checked(argv, done) if check else done


def _start_tool(argv: Sequence[str], env: Mapping[str, str] | None) -> "subprocess.Popen[bytes]":
    _log_argv("run", argv)
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(SAFE_ENV if env is None else env),
            # So that Ctrl-C on our terminal goes to us alone, and the group can be killed as a
            # whole.
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as exc:
        raise MissingPartError(f"cannot start {argv[0]}: {exc.strerror}") from exc
    except OSError as exc:
        raise ProcessError(argv, f"could not be started: {exc.strerror}") from exc


def _finish_tool(
    popen: "subprocess.Popen[bytes]", argv: Sequence[str], stdin: bytes, timeout_s: float
) -> Completed:
    """Write the tool's stdin, collect what it prints, and reap it."""
    stdout, stderr = bytearray(), bytearray()
    with popen:
        try:
            _converse(popen, stdin, stdout, stderr, time.monotonic() + timeout_s)
        except (subprocess.TimeoutExpired, _FloodError) as exc:
            _kill_group(popen)
            is_flood = isinstance(exc, _FloodError)
            reason = str(exc) if is_flood else f"did not end within {timeout_s:g} s"
            raise ProcessError(argv, reason, stderr.decode(errors="replace")) from exc
        except BaseException:
            _kill_group(popen)
            raise
    return Completed(returncode=popen.returncode, stdout=bytes(stdout), stderr=bytes(stderr))


def _converse(
    popen: "subprocess.Popen[bytes]",
    stdin: bytes,
    stdout: bytearray,
    stderr: bytearray,
    deadline: float,
) -> None:
    """Do what `Popen.communicate` does, which takes as much as the tool prints.

    A tool may pass on what a stranger sends, without an end.
    """
    assert popen.stdin is not None
    assert popen.stdout is not None
    assert popen.stderr is not None
    unsent = memoryview(stdin)
    with selectors.PollSelector() as selector:  # without a descriptor of its own
        selector.register(popen.stdin, selectors.EVENT_WRITE)
        selector.register(popen.stdout, selectors.EVENT_READ, stdout)
        selector.register(popen.stderr, selectors.EVENT_READ, stderr)
        while selector.get_map():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise subprocess.TimeoutExpired(popen.args, left_s)
            for key, _ in selector.select(left_s):
                if key.data is None:
                    unsent = _send(key.fd, unsent)
                    is_over = not unsent
                else:
                    chunk = os.read(key.fd, _CHUNK_BYTES)
                    key.data.extend(chunk)
                    is_over = not chunk
                if is_over:
                    selector.unregister(key.fileobj)
                    if key.data is None:
                        popen.stdin.close()
                if len(stdout) + len(stderr) > OUTPUT_MAX_BYTES:
                    raise _FloodError(f"printed more than {OUTPUT_MAX_BYTES >> 20} MiB")
    popen.wait(max(deadline - time.monotonic(), 0.0))


def _send(fd: int, unsent: memoryview) -> memoryview:
    """Write a piece that a pipe takes at once; return the rest, nothing if nobody reads it."""
    try:
        return unsent[os.write(fd, unsent[: select.PIPE_BUF]) :]
    except BrokenPipeError:
        return memoryview(b"")


def _kill_group(popen: "subprocess.Popen[bytes]") -> None:
    """SIGKILL a tool and all that it started. Once it has been reaped, do nothing."""
    # Not poll(), which would reap a leader whose children still run. Unreaped, it keeps its pid.
    if popen.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)


def _checked(argv: Sequence[str], done: Completed) -> Completed:
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace")
        raise ProcessError(argv, describe_exit(done.returncode), words)
    return done
