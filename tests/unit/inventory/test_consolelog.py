import fcntl
import os
from pathlib import Path

import pytest
from fakes.published import make_record, publish

from qemu_node.config.node import Paths
from qemu_node.errors import HostError
from qemu_node.inventory.consolelog import ConsoleLog, unlogged
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.record import VMRecord


class Task:
    """A task's log files."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(run=str(root / "r"), data=str(root / "d"))
        self.record: VMRecord = make_record(self.paths, alloc_dir=str(root / "alloc"))
        self.logs = root / "alloc" / "alloc" / "logs"
        self.logs.mkdir(parents=True)

    def append(self, number: int, data: bytes) -> None:
        with (self.logs / f"web.stdout.{number}").open("ab") as file:
            file.write(data)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(tmp_path)


def read_all(log: ConsoleLog) -> bytes:
    return b"".join(iter(log.read, b""))


def test_a_log_is_read_over_all_its_files_and_as_it_grows(task: Task) -> None:
    log = ConsoleLog.of(task.record)
    assert log.read() == b""
    task.append(3, b"one\n" * 40_000)
    task.append(4, b"two\n")
    (task.logs / "web.stderr.5").write_bytes(b"QEMU\n")
    (task.logs / "web2.stdout.5").write_bytes(b"another\n")
    assert read_all(log) == b"one\n" * 40_000 + b"two\n"
    task.append(4, b"three\n")
    task.append(5, b"four")
    assert read_all(log) == b"three\nfour"
    task.append(5, b"!\n")
    assert read_all(log) == b"!\n"


def test_files_removed_meanwhile_are_passed_over(task: Task) -> None:
    task.append(0, b"one\n")
    log = ConsoleLog.of(task.record)
    assert read_all(log) == b"one\n"
    (task.logs / "web.stdout.0").unlink()
    task.append(2, b"two\n")
    assert read_all(log) == b"two\n"


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (0, b""),
        (1, b"five\n"),
        (2, b"four\nfive\n"),
        (3, b"three\nfour\nfive\n"),
        (5, b"one\ntwo\nthree\nfour\nfive\n"),
        (9, b"one\ntwo\nthree\nfour\nfive\n"),
    ],
)
def test_the_last_lines_may_be_in_several_files(task: Task, lines: int, shown: bytes) -> None:
    task.append(1, b"one\ntwo\n")
    task.append(2, b"three\nfo")
    task.append(3, b"ur\nfive\n")
    log = ConsoleLog.of(task.record)
    log.skip_to_last(lines)
    assert read_all(log) == shown
    task.append(3, b"six\n")
    assert read_all(log) == b"six\n"


def test_the_last_line_may_have_no_end_and_lines_may_be_long(task: Task) -> None:
    task.append(0, b"x" * 200_000 + b"\nlogin: ")
    log = ConsoleLog.of(task.record)
    log.skip_to_last(1)
    assert read_all(log) == b"login: "
    log.skip_to_last(2)
    assert read_all(log) == b"x" * 200_000 + b"\nlogin: "


def test_what_a_task_put_in_place_of_a_log_file_is_not_read(task: Task, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret\n")
    (task.logs / "web.stdout.0").symlink_to(secret)
    os.mkfifo(task.logs / "web.stdout.1")
    (task.logs / "web.stdout.2").hardlink_to(secret)
    task.append(3, b"printed\n")
    log = ConsoleLog.of(task.record)
    assert read_all(log) == b"printed\n"
    log.skip_to_last(10)
    assert read_all(log) == b"printed\n"


def test_a_hole_of_terabytes_is_passed_over(task: Task) -> None:
    # The other tasks of the allocation may write there as well.
    task.append(0, b"one\n")
    os.truncate(task.logs / "web.stdout.0", 4 << 40)
    log = ConsoleLog.of(task.record)
    assert read_all(log).rstrip(b"\0") == b"one\n"
    log.skip_to_last(2)
    assert read_all(log) == b""
    task.append(0, b"two\n")
    assert read_all(log).lstrip(b"\0") == b"two\n"
    task.append(1, b"three\n")
    log.skip_to_last(2)
    assert read_all(log).lstrip(b"\0") == b"two\nthree\n"


def test_a_directory_of_logs_that_is_a_link_or_gone_is_an_error(task: Task, tmp_path: Path) -> None:
    task.logs.rename(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="read the logs in"):
        ConsoleLog.of(task.record).read()
    task.logs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="read the logs in"):
        ConsoleLog.of(task.record).skip_to_last(1)


def test_what_no_driver_has_moved_yet_is_read_and_stays(task: Task) -> None:
    publish(task.paths, task.record)
    directory = VMDirectory.of(task.paths, task.record.vm_id)
    assert unlogged(task.paths, task.record) == b""
    directory.serial_log.write_bytes(b"\0" * 100 + b"waiting\n")
    for _ in range(2):
        assert unlogged(task.paths, task.record) == b"waiting\n"
    lock = os.open(directory.data, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        assert unlogged(task.paths, task.record) is None
    finally:
        os.close(lock)
