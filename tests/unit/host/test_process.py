import asyncio
import errno
import os
import signal
from pathlib import Path

import pytest

from qemu_node.errors import MissingPartError
from qemu_node.host.process import command, identity, pidfd
from qemu_node.host.process.command import ProcessError
from qemu_node.host.process.identity import ProcessId

OWN = os.getpid()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def fake_stat(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(identity, "read_proc", lambda _path: text)


def stat_line(comm: str, state: str = "S", start_time: int = 4242) -> str:
    fields = [state, *"0" * 10, "150", "50", *"0" * 6, str(start_time), "0"]
    return f"7 ({comm}) {' '.join(fields)}\n"


def test_a_live_process_is_identified_and_alive() -> None:
    own = identity.identify(OWN)
    assert own is not None
    assert own.pid == OWN
    assert identity.is_alive(own)


def test_another_process_with_the_same_pid_is_not_taken_for_the_old_one() -> None:
    own = identity.identify(OWN)
    assert own is not None
    earlier = ProcessId(pid=OWN, start_time=own.start_time - 1)
    assert not identity.is_alive(earlier)
    assert not pidfd.send_signal(earlier, signal.SIGKILL)
    assert identity.cpu_times(earlier) is None
    assert identity.pss_bytes(earlier) is None


@pytest.mark.parametrize("comm", ["qemu", "a b", ") R 1 2 (", "((("])
def test_the_command_name_cannot_shift_the_fields(
    comm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stat(monkeypatch, stat_line(comm))
    assert identity.identify(7) == ProcessId(pid=7, start_time=4242)
    times = identity.cpu_times(ProcessId(pid=7, start_time=4242))
    assert times is not None
    ticks = os.sysconf("SC_CLK_TCK")
    assert (times.user_s, times.system_s) == (150 / ticks, 50 / ticks)


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_zombie_is_not_alive(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_stat(monkeypatch, stat_line("qemu", state))
    assert identity.identify(7) is None


def test_memory_and_command_line_of_a_live_process() -> None:
    own = identity.identify(OWN)
    assert own is not None
    pss = identity.pss_bytes(own)
    assert pss is not None
    assert pss > 1 << 20
    assert identity.command_line(OWN)
    assert identity.command_line(2**22 + 1) == []


@pytest.mark.parametrize("code", [errno.ESRCH, errno.EINVAL, errno.ENOENT])
async def test_a_pid_that_is_gone_or_now_a_threads_counts_as_gone(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    gone = ProcessId(pid=OWN, start_time=1)
    assert not pidfd.send_signal(gone, signal.SIGTERM)
    async with asyncio.timeout(10):
        await pidfd.wait_gone(gone)


async def test_waiting_for_a_live_process_can_be_cancelled_and_leaks_no_descriptor() -> None:
    own = identity.identify(OWN)
    assert own is not None
    before = open_descriptors()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pidfd.wait_gone(own)
    assert open_descriptors() == before


def test_an_error_carries_the_tools_last_words_on_one_line() -> None:
    error = ProcessError(["/usr/bin/qemu-img", "x"], "failed with exit code 1", "one\n  two\n")
    assert str(error) == "qemu-img failed with exit code 1: one two"
    long = ProcessError(["t"], "failed", "x" * 10_000)
    assert len(str(long)) < 2100


@pytest.mark.parametrize("reason", [FileNotFoundError, PermissionError])
async def test_a_tool_that_is_not_there_is_a_missing_part(
    reason: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise reason(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(MissingPartError, match="cannot start qemu-img: No such file"):
        await command.run(["qemu-img"])
    with pytest.raises(MissingPartError, match="cannot start qemu: No such file"):
        command.spawn(["qemu"], stderr_fd=2)


async def test_a_start_that_the_kernel_refuses_is_worth_a_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(ProcessError, match="could not be started") as caught:
        await command.run(["qemu-img"])
    assert caught.value.retry
