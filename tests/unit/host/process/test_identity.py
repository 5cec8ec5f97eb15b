import os
import signal

import pytest

from qemu_node.host.process import identity, pidfd
from qemu_node.host.process.identity import ProcessId

OWN = os.getpid()


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
