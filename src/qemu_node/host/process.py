"""Processes: starting them, naming them over pid reuse, waiting for them, signalling them.

Owns every process start of the package. Does not own what a process is for.

Two kinds of start. `run` is for short tools: it waits, bounded by a timeout, and reports failure
with the tool's last words. `spawn` is for processes that must outlive us (QEMU): own session, no
pipes, waited for through a pidfd. Neither uses asyncio's subprocess transports, which SIGKILL a
live child when the event loop is torn down (seen on CPython 3.11 and 3.13), nor a fork that runs
Python code in the child, which gRPC's threads make unsafe: only arguments that keep `subprocess` on
its vfork path.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import os
import shlex
import signal
import subprocess  # noqa: TID251 - the one module that may
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import HostError, MissingPartError
from qemu_node.host.cancellation import finish
from qemu_node.host.exitstatus import describe_exit

log = logging.getLogger(__name__)

SAFE_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""What a child sees of the environment unless told otherwise: nothing of the agent's secrets."""

_STDERR_TAIL_BYTES = 2000

# include/linux/sched.h; field 9 of /proc/PID/stat.
_PF_EXITING = 0x00000004
_PF_KTHREAD = 0x00200000

EXEC_MAX_S = 0.5
"""How long a process may be in the middle of an exec."""

_EXEC_POLL_S = 0.001
_SETTLED_LOOKS = 3


class ProcessError(HostError):
    """A tool failed or did not end in time; it is no longer running."""

    def __init__(self, argv: Sequence[str], reason: str, stderr: str = "") -> None:
        self.argv = tuple(argv)
        self.reason = reason
        self.stderr = stderr
        tail = " ".join(stderr.strip()[-_STDERR_TAIL_BYTES:].split())
        super().__init__(f"{Path(argv[0]).name} {reason}" + (f": {tail}" if tail else ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A tool that ended: its exit code and what it printed."""

    returncode: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """A process, told apart from a later one with the same pid by its start time.

    `start_time` is in clock ticks since boot: field 22 of /proc/PID/stat (man 5 proc).
    """

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTimes:
    """CPU time a process has used, in seconds since its start."""

    user_s: float
    system_s: float


_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def _read_proc(path: str) -> str:
    """Return a short file of /proc; read once a second for each VM, so without a file object."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode(errors="replace")
    finally:
        os.close(fd)


def _read_stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat that follow the command name; index 0 is field 3."""
    try:
        text = _read_proc(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name may hold spaces and parentheses: the last ")" ends it.
    return text[text.rindex(")") + 2 :].split()


def _is_over(fields: list[str]) -> bool:
    """Tell whether no thread of a process runs any more.

    Its state is that of its first thread, and that one may have ended alone: field 20 counts it
    and the others.
    """
    return fields[0] in ("Z", "X") and int(fields[17]) <= 1


@functools.cache
def boot_id() -> str:
    """Return the kernel's name for this boot (man 4 random), from which start times count."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessId | None:
    """Return the identity of the live process `pid`, or None where there is none (or a zombie)."""
    fields = _read_stat(pid)
    if fields is None or _is_over(fields):
        return None
    return ProcessId(pid=pid, start_time=int(fields[19]))


def is_alive(process: ProcessId) -> bool:
    """Tell whether exactly this process still runs; a zombie does not."""
    return identify(process.pid) == process


def cpu_times(process: ProcessId) -> ProcessTimes | None:
    """Return the CPU time used by all threads of `process`, or None once it is gone."""
    fields = _read_stat(process.pid)
    if fields is None or int(fields[19]) != process.start_time:
        return None
    return ProcessTimes(
        user_s=int(fields[11]) / _TICKS_PER_S, system_s=int(fields[12]) / _TICKS_PER_S
    )


def pss_bytes(process: ProcessId) -> int | None:
    """Return the proportional set size of `process`; None once it is gone or may not be read.

    Walks the page tables: about 11 ms for 1 GiB of 4 KiB pages. Not for every tick.
    """
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Pss:") and is_alive(process):
            return int(line.split()[1]) * 1024
    return None


def command_line(pid: int, wait_s: float = EXEC_MAX_S) -> list[str]:
    """Return the argv of `pid`; empty for kernel threads, zombies and processes that are gone.

    In the middle of an exec a process has no argv for a moment, about a millisecond of it for
    QEMU: the question is asked again then, for `wait_s` at most, so that a process never looks as
    if it were not there. Blocks; a process can hide its argv, and then it is empty.
    """
    deadline = time.monotonic() + wait_s
    looks = 0
    while True:
        try:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return []
        if raw or looks == _SETTLED_LOOKS or time.monotonic() > deadline:
            return [part.decode(errors="surrogateescape") for part in raw.split(b"\0")[:-1]]
        if _is_in_exec(pid):
            looks = 0
            time.sleep(_EXEC_POLL_S)
        else:
            # The exec may have come to its end, or begun, between the two readings.
            looks += 1


def _is_in_exec(pid: int) -> bool:
    """Tell whether a process without an argv will have one: neither a kernel's nor dying."""
    fields = _read_stat(pid)
    if fields is None or _is_over(fields):
        return False
    # Where its arguments end, field 49, is set last in an exec; PR_SET_MM_MAP (man 2 prctl) takes
    # no address as low as 0 for it. Of a process that we may not trace we see 0 always.
    return not int(fields[6]) & (_PF_EXITING | _PF_KTHREAD) and int(fields[46]) == 0


def open_pidfd(process: ProcessId) -> int | None:
    """Return a pidfd of exactly this process, None where it has ended and was reaped."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError as exc:
        # EINVAL, ENOENT on newer kernels (seen on 6.18): a thread of somebody else has the number.
        if exc.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            return None
        raise
    # The pidfd pins whoever has the pid now; comparing afterwards rules out a newcomer. A zombie
    # counts: it may be the first thread alone that has ended, and the others still hold files.
    fields = _read_stat(process.pid)
    if fields is not None and int(fields[19]) == process.start_time:
        return pidfd
    os.close(pidfd)
    return None


def send_signal(process: ProcessId, signum: signal.Signals) -> bool:
    """Send `signum` to exactly this process; False where it is gone already."""
    pidfd = open_pidfd(process)
    if pidfd is None:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


async def wait_gone(process: ProcessId) -> None:
    """Return once `process` has ended, be it our child or not. Cancelling is harmless."""
    pidfd = open_pidfd(process)
    if pidfd is None:
        return
    try:
        await until_readable(pidfd)
    finally:
        os.close(pidfd)


async def until_readable(pidfd: int) -> None:
    """Return once the process of a pidfd has ended. Cancelling is harmless."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(pidfd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(pidfd)


class Child:
    """A process that we started and that may outlive us.

    Keep the object: `exit_status` can be had only by its parent.
    """

    def __init__(self, process: ProcessId) -> None:
        self.process = process
        self._status: int | None = None

    def exit_status(self) -> int | None:
        """Return the exit code, -N for death by signal N, None while it runs. Reaps the child.

        None for ever where somebody else has reaped it, as a library's SIGCHLD handler may.
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
        """SIGKILL it and what it started, but for what left its process group."""
        # Once it is reaped somebody else may have the number.
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
        stderr_fd: Where it writes its words, stdout too unless `stdout_fd` is given.
        stdin_fd: What it reads; `/dev/null` by default.
        stdout_fd: Where stdout goes instead of `stderr_fd`.
        pass_fds: Descriptors it inherits under the same numbers.
        env: Its whole environment; `SAFE_ENV` by default.

    Raises:
        MissingPartError: the program is not there or may not be executed; nothing was started.
        ProcessError: the kernel refused the start; nothing was started.
    """
    log.debug("spawn", extra={"argv": shlex.join(argv)})
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
    # A child of ours cannot vanish before we reap it, so its stat is there even if it ended at
    # once.
    fields = _read_stat(popen.pid)
    start_time = int(fields[19]) if fields is not None else 0
    # From here the process is waited for by pid alone. A Popen that is dropped while its process
    # runs would warn, and keep it in a list that any later Popen polls and reaps.
    popen.returncode = 0
    return Child(ProcessId(pid=popen.pid, start_time=start_time))


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 60.0,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> Completed:
    """Run a short tool to its end and return what it printed.

    Cancelling kills the tool and whatever it started, and returns once it is gone: it writes
    nothing behind the back of a caller who is already undoing.

    Raises:
        MissingPartError: the tool is not installed.
        ProcessError: it exited non-zero (with `check`), or was killed because `timeout_s` passed.
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
    """Do what `run` does, blocking the calling thread: for command-line code without a loop."""
    done = _finish_tool(_start_tool(argv, env), argv, stdin, timeout_s)
    return _checked(argv, done) if check else done


def _start_tool(argv: Sequence[str], env: Mapping[str, str] | None) -> "subprocess.Popen[bytes]":
    log.debug("run", extra={"argv": shlex.join(argv)})
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(SAFE_ENV if env is None else env),
            # A Ctrl-C on our terminal is ours to answer, and a group can be killed as a whole.
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as exc:
        raise MissingPartError(f"cannot start {argv[0]}: {exc.strerror}") from exc
    except OSError as exc:
        raise ProcessError(argv, f"could not be started: {exc.strerror}") from exc


def _finish_tool(
    popen: "subprocess.Popen[bytes]", argv: Sequence[str], stdin: bytes, timeout_s: float
) -> Completed:
    """Feed the tool, collect what it prints and reap it."""
    with popen:
        try:
            stdout, stderr = popen.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired as exc:
            _kill_group(popen)
            words = (exc.stderr or b"").decode(errors="replace")
            raise ProcessError(argv, f"did not end within {timeout_s:g} s", words) from exc
        except BaseException:
            _kill_group(popen)
            raise
    return Completed(returncode=popen.returncode, stdout=stdout, stderr=stderr)


def _kill_group(popen: "subprocess.Popen[bytes]") -> None:
    """SIGKILL a tool with all that it started; nothing once it has been reaped."""
    # Not poll(), which would reap a leader whose children still run; unreaped, it keeps its number.
    if popen.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)


def _checked(argv: Sequence[str], done: Completed) -> Completed:
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace")
        raise ProcessError(argv, describe_exit(done.returncode), words)
    return done
