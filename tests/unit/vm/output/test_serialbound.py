import errno
import os
from pathlib import Path

import pytest

from qemu_node.errors import HostError
from qemu_node.host import limits as host_limits
from qemu_node.host.limits import NoFileSizeLimitError
from qemu_node.host.process.identity import ProcessId
from qemu_node.units import MIB
from qemu_node.vm.output import serialbound
from qemu_node.vm.output.serial import SerialLog
from qemu_node.vm.output.serialbound import (
    BOUNDED_DISK_MAX_BYTES,
    LOG_BEGIN_BYTES,
    SerialBound,
    create_log,
)

QEMU = ProcessId(pid=1, start_time=1)
UNREAD = 4 * MIB


class Limits:
    """The kernel's limit of QEMU's file sizes."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self.refusal: Exception | None = None

    def read_limit(self, process: ProcessId) -> int | None:
        assert process is QEMU
        if self.refusal is not None:
            raise self.refusal
        return self.limit

    def set_limit(self, process: ProcessId, size_bytes: int) -> None:
        self.read_limit(process)
        self.limit = size_bytes


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    limits = Limits()
    monkeypatch.setattr(host_limits, "read_file_size_limit", limits.read_limit)
    monkeypatch.setattr(host_limits, "set_file_size_limit", limits.set_limit)
    return limits


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "serial.log"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as log:
        log.write(data)


def take(log: SerialLog) -> bytes:
    data = log.read_new(64 * MIB)
    log.consume(len(data))
    return data


def driver(path: Path) -> SerialLog:
    return SerialLog(path, SerialBound(QEMU, UNREAD))


def test_a_log_begins_above_every_disk_and_takes_no_space(path: Path) -> None:
    create_log(path, (os.geteuid(), os.getegid()), disk_bytes=BOUNDED_DISK_MAX_BYTES)
    assert path.stat().st_size == LOG_BEGIN_BYTES > BOUNDED_DISK_MAX_BYTES
    assert path.stat().st_blocks == 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_is_not_made_twice(path: Path) -> None:
    create_log(path, None, disk_bytes=0)
    with pytest.raises(HostError, match="exists"):
        create_log(path, None, disk_bytes=0)


def test_a_log_beside_a_huge_disk_has_no_bound(path: Path, limits: Limits) -> None:
    create_log(path, None, disk_bytes=BOUNDED_DISK_MAX_BYTES + 1)
    assert path.stat().st_size == 0
    append(path, b"text")
    assert take(driver(path)) == b"text"
    assert limits.limit is None


@pytest.mark.parametrize("lacking", ["punch_hole", "seek_data", "ftruncate"])
def test_a_file_system_without_large_holes_has_a_log_without_bound(
    path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    really = os.ftruncate

    def ftruncate(fd: int, length: int) -> None:
        if length:
            raise OSError(errno.EFBIG, "File too large")
        really(fd, length)

    if lacking == "ftruncate":
        monkeypatch.setattr(os, "ftruncate", ftruncate)
    elif lacking == "punch_hole":
        monkeypatch.setattr(serialbound, "punch_hole", lambda *_: False)
    else:
        monkeypatch.setattr(serialbound, "seek_data", lambda _fd, offset: offset)
    create_log(path, None, disk_bytes=0)
    assert path.stat().st_size == 0


def test_the_limit_keeps_ahead_of_the_reader(path: Path, limits: Limits) -> None:
    create_log(path, None, disk_bytes=0)
    log = driver(path)
    assert log.pending_bytes() == 0
    assert limits.limit == LOG_BEGIN_BYTES + UNREAD
    append(path, b"x" * 3 * MIB)
    assert len(take(log)) == 3 * MIB
    assert limits.limit == LOG_BEGIN_BYTES + 3 * MIB + UNREAD


def test_a_line_does_not_move_the_limit(path: Path, limits: Limits) -> None:
    create_log(path, None, disk_bytes=0)
    log = driver(path)
    assert log.pending_bytes() == 0
    append(path, b"line\n")
    assert take(log) == b"line\n"
    assert limits.limit == LOG_BEGIN_BYTES + UNREAD


def test_the_next_driver_reads_a_full_log_and_moves_the_limit_on(
    path: Path, limits: Limits, caplog: pytest.LogCaptureFixture
) -> None:
    create_log(path, None, disk_bytes=0)
    first = driver(path)
    assert first.pending_bytes() == 0
    append(path, b"old\n")
    assert take(first) == b"old\n"
    append(path, b"y" * (UNREAD - 4))
    second = driver(path)
    assert take(second) == b"y" * (UNREAD - 4)
    assert "was full" in caplog.text
    assert limits.limit == LOG_BEGIN_BYTES + 2 * UNREAD
    append(path, b"new\n")
    assert take(second) == b"new\n"


def test_a_driver_that_finds_no_limit_sets_it_behind_what_waits(path: Path, limits: Limits) -> None:
    create_log(path, None, disk_bytes=0)
    append(path, b"z" * UNREAD)
    assert driver(path).pending_bytes() == UNREAD
    assert limits.limit == LOG_BEGIN_BYTES + 2 * UNREAD


def test_a_log_of_an_earlier_version_is_read_without_a_limit(path: Path, limits: Limits) -> None:
    path.touch()
    append(path, b"x" * 2 * MIB)
    assert len(take(driver(path))) == 2 * MIB
    assert limits.limit is None


def test_a_qemu_that_takes_no_limit_is_read_all_the_same(
    path: Path, limits: Limits, caplog: pytest.LogCaptureFixture
) -> None:
    limits.refusal = NoFileSizeLimitError("it does not ignore SIGXFSZ")
    create_log(path, None, disk_bytes=0)
    append(path, b"x" * 2 * MIB)
    log = driver(path)
    assert len(take(log)) == 2 * MIB
    assert log.pending_bytes() == 0
    assert [record.message for record in caplog.records].count(
        "the serial log has no bound while no driver runs"
    ) == 1


def test_the_end_of_qemu_is_no_trouble_to_the_reader(
    path: Path, limits: Limits, caplog: pytest.LogCaptureFixture
) -> None:
    create_log(path, None, disk_bytes=0)
    log = driver(path)
    assert log.pending_bytes() == 0
    append(path, b"x" * 4 * MIB)
    limits.refusal = ProcessLookupError()
    log.consume(len(log.read_new(2 * MIB)))
    assert len(take(driver(path))) == 2 * MIB
    assert caplog.records == []
