import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qemu_node.errors import HostError
from qemu_node.vm.output import serial
from qemu_node.vm.output.serial import SerialLog

MIB = 1 << 20


class Guest:
    """What QEMU does with the file: append, through a descriptor that is opened once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def print(self, data: bytes) -> None:
        assert os.write(self._fd, data) == len(data)

    def disk_bytes(self) -> int:
        return os.fstat(self._fd).st_blocks * 512

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path / "serial.log")
    yield guest
    guest.close()


@pytest.fixture
def log(guest: Guest) -> SerialLog:
    return SerialLog(guest.path)


def restarted(guest: Guest) -> SerialLog:
    return SerialLog(guest.path)


def read_all(log: SerialLog) -> bytes:
    return log.read_new(64 * MIB)


def test_an_empty_log_has_nothing_to_read(log: SerialLog) -> None:
    assert log.pending_bytes() == 0
    assert read_all(log) == b""


def test_what_is_read_stays_until_it_is_consumed(guest: Guest, log: SerialLog) -> None:
    guest.print(b"one\ntwo\n")
    assert log.read_new(3) == b"one"
    assert read_all(log) == b"one\ntwo\n"
    log.consume(4)
    assert log.pending_bytes() == 4
    assert read_all(log) == b"two\n"


def test_a_new_reader_goes_on_at_the_first_unconsumed_byte(guest: Guest, log: SerialLog) -> None:
    guest.print(b"one\ntwo\n")
    assert log.read_new(4) == b"one\n"
    log.consume(4)
    again = restarted(guest)
    assert again.pending_bytes() == 4
    assert read_all(again) == b"two\n"


def test_a_new_reader_of_a_log_read_to_its_end_waits_for_more(guest: Guest, log: SerialLog) -> None:
    guest.print(b"all")
    assert log.read_new(3) == b"all"
    log.consume(3)
    again = restarted(guest)
    assert again.pending_bytes() == 0
    guest.print(b"more")
    assert read_all(again) == b"more"


def test_output_of_the_time_without_a_reader_is_not_lost(guest: Guest) -> None:
    guest.print(b"x" * (3 * MIB))
    log = restarted(guest)
    assert read_all(log) == b"x" * (3 * MIB)


def test_consumed_output_takes_no_disk_space(guest: Guest, log: SerialLog) -> None:
    for _ in range(40):
        guest.print(b"line of the guest\n" * 15_000)
        while data := log.read_new(64 * 1024):
            log.consume(len(data))
        os.fsync(guest._fd)
        assert guest.disk_bytes() <= 2 * MIB
    assert guest.path.stat().st_size > 10 * MIB


def test_a_large_file_of_holes_is_passed_at_once(guest: Guest) -> None:
    os.truncate(guest.path, 1 << 40)
    guest.print(b"after the hole")
    log = restarted(guest)
    assert log.pending_bytes() == len(b"after the hole")
    assert read_all(log) == b"after the hole"


def test_nothing_stays_open_between_two_calls(guest: Guest, log: SerialLog) -> None:
    before = open_files()
    guest.print(b"text")
    assert read_all(log) == b"text"
    log.consume(4)
    assert open_files() == before


def open_files() -> list[Path]:
    return sorted(Path("/proc/self/fd").iterdir())


def test_a_long_run_of_written_nuls_is_passed_over_in_bounded_steps(guest: Guest) -> None:
    for _ in range(20):
        guest.print(bytes(MIB))
    guest.print(b"end")
    log = restarted(guest)
    steps = 1
    while log.pending_bytes() == 0:
        steps += 1
    assert 1 < steps < 5
    assert read_all(log) == b"end"


def test_nuls_after_text_are_handed_on(guest: Guest, log: SerialLog) -> None:
    guest.print(b"a\0b")
    assert read_all(log) == b"a\0b"


def test_a_file_cut_by_its_writer_is_begun_again(guest: Guest, log: SerialLog) -> None:
    guest.print(b"0123456789")
    log.consume(len(read_all(log)))
    os.truncate(guest.path, 0)
    guest.print(b"new")
    assert read_all(log) == b"new"


def test_where_no_hole_can_be_punched_the_file_is_emptied_when_it_is_read_up(
    guest: Guest, log: SerialLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial, "punch_hole", lambda *_: False)
    guest.print(b"x" * (MIB + 10))
    log.consume(len(log.read_new(MIB)))
    assert guest.path.stat().st_size == MIB + 10
    again = restarted(guest)
    assert read_all(again) == b"x" * 10
    log.consume(len(read_all(log)))
    assert guest.path.stat().st_size == 0
    guest.print(b"on")
    assert read_all(log) == b"on"


def test_a_terabyte_that_cannot_be_punched_out_is_dropped_without_writing_it(
    guest: Guest, log: SerialLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def pwrite(_fd: int, data: bytes, _offset: int) -> int:
        written.append(len(data))
        return len(data)

    monkeypatch.setattr(serial, "punch_hole", lambda *_: False)
    monkeypatch.setattr("qemu_node.vm.output.serial.os.pwrite", pwrite)
    guest.print(b"begin\n")
    os.truncate(guest.path, 1 << 40)
    log.consume(log.pending_bytes() - 100)
    assert written == []
    assert guest.path.stat().st_size == 0
    guest.print(b"on")
    assert read_all(log) == b"on"


def test_bytes_that_cannot_be_erased_are_logged_and_passed(
    guest: Guest,
    log: SerialLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    guest.print(b"onetwo")
    monkeypatch.setattr(os, "pwrite", full)
    log.consume(3)
    assert read_all(log) == b"two"
    assert "could not be erased" in caplog.text


def test_a_missing_file_and_a_link_are_host_errors(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").touch()
    for name in ("missing", "link"):
        with pytest.raises(HostError, match=name):
            SerialLog(tmp_path / name)


class SerialLogMachine(RuleBasedStateMachine):
    """Whatever the order of printing, consuming and restarts: no byte is lost or doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.guest = Guest(self.directory / "serial.log")
        self.log = SerialLog(self.guest.path)
        self.unconsumed = b""
        self.counter = 0

    @rule(size=st.one_of(st.integers(1, 20), st.integers(4000, 20_000)))
    def guest_prints(self, size: int) -> None:
        self.counter += 1
        data = (f"<{self.counter}>".encode() * size)[:size]
        self.guest.print(data)
        self.unconsumed += data

    @rule(read=st.integers(1, 20_000), kept=st.integers(0, 50))
    def driver_reads_and_consumes(self, read: int, kept: int) -> None:
        data = self.log.read_new(read)
        assert data == self.unconsumed[:read]
        count = max(0, len(data) - kept)
        self.log.consume(count)
        self.unconsumed = self.unconsumed[count:]

    @rule()
    def driver_is_killed_and_comes_back(self) -> None:
        self.log = SerialLog(self.guest.path)

    @invariant()
    def pending_is_what_is_unconsumed(self) -> None:
        assert self.log.pending_bytes() == len(self.unconsumed)

    def teardown(self) -> None:
        self.guest.close()
        shutil.rmtree(self.directory)


@pytest.fixture(autouse=True)
def punch_in_small_steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "runTest" in request.node.name:
        monkeypatch.setattr(serial, "_PUNCH_BYTES", 10_000)


TestSerialLogMachine = SerialLogMachine.TestCase
TestSerialLogMachine.settings = settings(max_examples=60, stateful_step_count=30)
