"""Real processes: what is started, what is killed, and what must survive."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import qemu_node
from qemu_node.errors import MissingPartError
from qemu_node.host.process import command, identity, pidfd
from qemu_node.host.process.command import Child, ProcessError
from qemu_node.host.process.identity import ProcessId

PATIENCE_S = 60.0


@pytest.fixture
def spawned() -> Iterator[Callable[..., Child]]:
    """Start processes that end with the test."""
    children: list[Child] = []
    null = os.open(os.devnull, os.O_RDWR)

    def start(*argv: str, pass_fds: tuple[int, ...] = (), stderr_fd: int | None = None) -> Child:
        err = null if stderr_fd is None else stderr_fd
        child = command.spawn(argv, stderr_fd=err, pass_fds=pass_fds)
        children.append(child)
        return child

    yield start
    for child in children:
        pidfd.send_signal(child.process, signal.SIGKILL)
        eventually(lambda child=child: child.exit_status() is not None)  # type: ignore[misc]
    os.close(null)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    return identity.identify(pid) is not None


async def test_run_returns_what_a_tool_prints_and_feeds_it() -> None:
    done = await command.run(["sh", "-c", "cat; echo err >&2"], stdin=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"in", b"err\n")


async def test_a_tool_may_take_and_print_more_than_a_pipe_holds_or_nothing() -> None:
    data = os.urandom(1 << 20)
    assert (await command.run(["cat"], stdin=data)).stdout == data
    assert (await command.run(["true"], stdin=data)).stdout == b""
    script = "exec <&- >&- 2>&-; sleep 0.1; exit 3"
    assert (await command.run(["sh", "-c", script], stdin=data, check=False)).returncode == 3


async def test_a_tool_that_prints_without_an_end_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "OUTPUT_MAX_BYTES", 1 << 20)
    with pytest.raises(ProcessError, match=r"^yes printed more than 1 MiB$"):
        await command.run(["yes"])
    with pytest.raises(ProcessError, match=r"^sh printed more than 1 MiB: "):
        await command.run(["sh", "-c", "yes >&2"])


async def test_a_tool_sees_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_TOKEN", "secret")
    done = await command.run(["env"])
    assert b"secret" not in done.stdout
    assert b"LANG=C.UTF-8" in done.stdout


async def test_a_failing_tool_raises_with_its_exit_code_and_words() -> None:
    with pytest.raises(ProcessError, match="sh failed with exit code 3: no disk"):
        await command.run(["sh", "-c", "echo no disk >&2; exit 3"])
    assert (await command.run(["sh", "-c", "exit 3"], check=False)).returncode == 3
    with pytest.raises(ProcessError, match="was killed by SIGTERM"):
        await command.run(["sh", "-c", "kill $$"])


async def test_a_tool_that_is_not_installed_is_a_missing_part() -> None:
    with pytest.raises(MissingPartError, match="no-such-tool"):
        await command.run(["no-such-tool"])


async def test_a_tool_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"echo began >&2; sleep 600 & echo $! $$ > {pids}; wait"
    with pytest.raises(ProcessError, match=r"did not end within 2 s: began"):
        await command.run(["sh", "-c", script], timeout_s=2)
    for pid in pids.read_text().split():
        eventually(lambda pid=pid: not is_running(int(pid)))  # type: ignore[misc]


async def test_a_cancelled_tool_is_gone_when_the_cancellation_is_through(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    task = asyncio.ensure_future(
        command.run(
            ["sh", "-c", f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait"]
        )
    )
    async with asyncio.timeout(PATIENCE_S):
        while not pids.exists():
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    background, shell = (int(pid) for pid in pids.read_text().split())
    assert not is_running(shell)
    eventually(lambda: not is_running(background))


def test_a_spawned_process_leads_a_session_of_its_own_and_keeps_its_words(
    tmp_path: Path, spawned: Callable[..., Child]
) -> None:
    with (tmp_path / "words").open("wb") as words:
        child = spawned("sh", "-c", "echo out; echo err >&2", stderr_fd=words.fileno())
    eventually(lambda: child.exit_status() == 0)
    assert (tmp_path / "words").read_bytes() == b"out\nerr\n"
    sleeping = spawned("sleep", "600")
    assert os.getsid(sleeping.process.pid) == sleeping.process.pid
    assert sleeping.exit_status() is None


def test_a_spawned_process_inherits_what_it_was_given_and_nothing_else(
    tmp_path: Path, spawned: Callable[..., Child]
) -> None:
    given, kept = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    with (tmp_path / "words").open("wb") as words:
        child = spawned("ls", "/proc/self/fd", pass_fds=(given,), stderr_fd=words.fileno())
    eventually(lambda: child.exit_status() == 0)
    listed = (tmp_path / "words").read_text().split()
    # 0, 1, 2, what was given, and the directory that ls itself reads.
    assert str(given) in listed
    assert len(listed) == 5
    os.close(given)
    os.close(kept)


def test_an_exit_status_tells_codes_from_signals(spawned: Callable[..., Child]) -> None:
    child = spawned("sh", "-c", "exit 7")
    eventually(lambda: child.exit_status() == 7)
    child = spawned("sleep", "600")
    assert pidfd.send_signal(child.process, signal.SIGKILL)
    eventually(lambda: child.exit_status() == -9)
    assert not pidfd.send_signal(child.process, signal.SIGKILL)


async def test_the_end_of_a_process_that_is_not_our_child_is_noticed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    # The shell ends at once, so the sleep becomes somebody else's child.
    script = f"setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $! > {pid_file}"
    await command.run(["sh", "-c", script])
    orphan = identity.identify(int(pid_file.read_text()))
    assert orphan is not None
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        waiting = group.create_task(pidfd.wait_gone(orphan))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert pidfd.send_signal(orphan, signal.SIGKILL)
    assert not identity.is_alive(orphan)


async def test_waiting_for_a_process_that_is_gone_returns_at_once(
    spawned: Callable[..., Child],
) -> None:
    child = spawned("true")
    async with asyncio.timeout(PATIENCE_S):
        await pidfd.wait_gone(child.process)
        await pidfd.wait_gone(child.process)
        await pidfd.wait_gone(ProcessId(pid=os.getpid(), start_time=1))


OUTLIVED = """
import asyncio, os, sys
from qemu_node.host.process import command, pidfd

async def main():
    null = os.open(os.devnull, os.O_RDWR)
    global child
    child = command.spawn(["sleep", "600"], stderr_fd=null)
    waiting = asyncio.ensure_future(pidfd.wait_gone(child.process))
    await asyncio.sleep(0)
    print(child.process.pid, child.process.start_time, flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), 9)

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["clean", "killed"])
async def test_a_spawned_process_outlives_us_however_we_end(end: str) -> None:
    source = Path(qemu_node.__file__).parents[1]
    env = command.SAFE_ENV | {"PYTHONPATH": str(source)}
    done = await command.run([sys.executable, "-c", OUTLIVED, end], env=env, check=False)
    assert done.returncode == (0 if end == "clean" else -9)
    pid, start_time = (int(word) for word in done.stdout.split())
    survivor = ProcessId(pid=pid, start_time=start_time)
    assert identity.is_alive(survivor)
    assert pidfd.send_signal(survivor, signal.SIGKILL)


def test_process_in_the_middle_of_an_exec_has_a_command_line(
    spawned: Callable[..., Child], tmp_path: Path
) -> None:
    relay = tmp_path / "relay"
    relay.write_text('#!/bin/sh\n[ "$1" -gt 0 ] || exec sleep 600\nexec "$0" $(($1 - 1))\n')
    relay.chmod(0o755)
    pid = spawned(str(relay), "500").process.pid
    seen: list[list[str]] = [identity.command_line(pid)]
    deadline = time.monotonic() + PATIENCE_S
    while seen[-1] != ["sleep", "600"]:
        assert time.monotonic() < deadline, seen[-1]
        seen.append(identity.command_line(pid))
    assert [] not in seen


# PR_SET_MM, PR_SET_MM_MAP and struct prctl_mm_map: include/uapi/linux/prctl.h. The map is that of
# /proc/self/stat (man 5 proc), but that the arguments end where they begin.
HIDDEN = """
import ctypes, pathlib, struct, sys, time
stat = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
code, end_code, stack, data, end_data, brk, arg, _, env, end_env = (
    int(stat[n - 3]) for n in (26, 27, 28, 45, 46, 47, 48, 49, 50, 51))
auxv = pathlib.Path("/proc/self/auxv").read_bytes()
words = ctypes.create_string_buffer(auxv)
top = ctypes.CDLL(None).sbrk
top.restype = ctypes.c_void_p
map = struct.pack("=12QIi", code, end_code, data, end_data, brk, top(0), stack, arg, arg, env,
    end_env, ctypes.addressof(words), len(auxv), -1)
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(35, 14, map, ctypes.c_ulong(len(map)), 0):
    sys.exit(f"prctl: {ctypes.get_errno()}")
print("hidden", flush=True)
time.sleep(600)
"""


def test_a_process_that_hides_its_command_line_is_not_waited_for() -> None:
    read, write = os.pipe()
    child = command.spawn([sys.executable, "-c", HIDDEN], stdout_fd=write, stderr_fd=2)
    try:
        assert os.read(read, 6) == b"hidden"
        # It would take this long if the answer were awaited.
        assert identity.command_line(child.process.pid, wait_s=1e6) == []
    finally:
        child.kill_group()
        os.close(read)
        os.close(write)
