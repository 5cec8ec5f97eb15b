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


def test_what_a_process_has_moved_from_storage_is_known_of_our_own() -> None:
    own = identity.identify(os.getpid())
    assert own is not None
    moved = identity.storage_io(own)
    # A kernel without task I/O accounting does not count.
    assert moved is None or min(moved.read_bytes, moved.write_bytes) >= 0
    gone = identity.ProcessId(pid=own.pid, start_time=own.start_time + 1)
    assert identity.storage_io(gone) is None
    assert identity.merged_bytes(gone) is None


@pytest.mark.parametrize(
    "text", ["", "read_bytes: 1", "read_bytes: x\nwrite_bytes: 1", "read_bytes: 1\nwrite_bytes"]
)
def test_counters_that_are_no_numbers_are_not_known(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = identity.identify(os.getpid())
    assert own is not None
    monkeypatch.setattr(identity, "read_proc", lambda _: text)
    assert identity.storage_io(own) is None
    assert identity.merged_bytes(own) is None


def test_merged_pages_are_counted_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    own = identity.identify(os.getpid())
    assert own is not None
    monkeypatch.setattr(identity, "is_alive", lambda _: True)
    monkeypatch.setattr(identity, "read_proc", lambda _: "3\n")
    assert identity.merged_bytes(own) == 3 * os.sysconf("SC_PAGE_SIZE")
