import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemu_node.errors import HostError
from qemu_node.nomad.task.tasklog import TaskLog


@pytest.fixture
def logs_dir(tmp_path: Path) -> Path:
    path = tmp_path / "alloc-id" / "alloc" / "logs"
    path.mkdir(parents=True)
    path.chmod(0o777)
    return path


def make_log(
    logs_dir: Path, task: str = "vm", max_files: int = 3, max_file_bytes: int = 100
) -> TaskLog:
    return TaskLog(logs_dir, task, "stdout", max_files, max_file_bytes)


def names(logs_dir: Path) -> list[str]:
    return sorted(path.name for path in logs_dir.iterdir())


def content(logs_dir: Path, prefix: str = "vm.stdout.") -> bytes:
    files = [path for path in logs_dir.iterdir() if path.name.startswith(prefix)]
    ordered = sorted(files, key=lambda path: int(path.suffix[1:]))
    return b"".join(path.read_bytes() for path in ordered)


def refuse_writes(monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOSPC) -> Callable[[], None]:
    write = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", full)
    return lambda: monkeypatch.setattr(os, "write", write)


def test_an_empty_file_exists_from_the_start(logs_dir: Path) -> None:
    make_log(logs_dir).close()
    assert names(logs_dir) == ["vm.stdout.0"]
    assert (logs_dir / "vm.stdout.0").stat().st_size == 0


def test_both_streams_and_any_task_name_live_side_by_side(logs_dir: Path) -> None:
    for task in ("vm", "a b", "größe", "vm.stdout", "x[1]*"):
        log = make_log(logs_dir, task)
        log.write(task.encode())
        log.close()
    TaskLog(logs_dir, "vm", "stderr", 3, 100).close()
    assert (logs_dir / "größe.stdout.0").read_text() == "größe"
    assert (logs_dir / "x[1]*.stdout.0").read_text() == "x[1]*"
    assert len(names(logs_dir)) == 6


def test_a_full_file_is_followed_by_the_next_and_the_oldest_goes(logs_dir: Path) -> None:
    log = make_log(logs_dir)
    for number in range(60):
        log.write(b"line %04d\n" % number)
    log.close()
    assert names(logs_dir) == ["vm.stdout.3", "vm.stdout.4", "vm.stdout.5"]
    assert all((logs_dir / name).stat().st_size <= 100 for name in names(logs_dir))
    assert content(logs_dir) == b"".join(b"line %04d\n" % number for number in range(30, 60))


def test_one_write_may_fill_several_files_and_lines_stay_whole(logs_dir: Path) -> None:
    log = make_log(logs_dir, max_files=100)
    data = b"".join(b"line number %d\n" % number for number in range(50))
    log.write(data)
    log.close()
    assert content(logs_dir) == data
    for path in logs_dir.iterdir():
        assert path.read_bytes().endswith(b"\n")


def test_a_line_longer_than_a_file_is_cut(logs_dir: Path) -> None:
    log = make_log(logs_dir, max_files=100)
    log.write(b"short\n" + b"x" * 250 + b"\n")
    log.close()
    assert content(logs_dir) == b"short\n" + b"x" * 250 + b"\n"


def test_a_new_driver_continues_the_newest_file(logs_dir: Path) -> None:
    for number in (7, 8, 10):
        (logs_dir / f"vm.stdout.{number}").write_text(f"old {number}\n")
    log = make_log(logs_dir)
    log.write(b"new\n")
    log.close()
    assert (logs_dir / "vm.stdout.10").read_text() == "old 10\nnew\n"


def test_more_files_than_are_kept_are_removed_at_the_start(logs_dir: Path) -> None:
    for number in range(8):
        (logs_dir / f"vm.stdout.{number}").touch()
    make_log(logs_dir).close()
    assert names(logs_dir) == ["vm.stdout.5", "vm.stdout.6", "vm.stdout.7"]


def test_names_that_only_look_alike_are_left_alone(logs_dir: Path) -> None:
    strangers = [
        *("vm.stdout.01", "vm.stdout.x", "vm.stdout.1.gz", "vm.stderr.9", "vm2.stdout.9"),
        *("vm.stdout.99999999999999999999999", "vmxstdout.5", "vm.stdout."),
    ]
    for name in strangers:
        (logs_dir / name).touch()
    log = make_log(logs_dir, max_files=1)
    log.write(b"x" * 250)
    log.close()
    assert set(strangers) <= set(names(logs_dir))
    assert set(names(logs_dir)) - set(strangers) == {"vm.stdout.2"}


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "fifo", "directory"])
def test_a_name_taken_by_anything_but_a_plain_file_is_passed_over(
    kind: str, logs_dir: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    taken = logs_dir / "vm.stdout.0"
    if kind == "link":
        taken.symlink_to(secret)
    elif kind == "dangling":
        taken.symlink_to(tmp_path / "made-by-us")
    elif kind == "hard link":
        taken.hardlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(taken)
    else:
        taken.mkdir()
    log = make_log(logs_dir)
    log.write(b"text\n")
    log.close()
    assert (logs_dir / "vm.stdout.1").read_bytes() == b"text\n"
    assert secret.read_text() == "secret"
    assert not (tmp_path / "made-by-us").exists()


def test_when_every_name_is_taken_the_text_is_dropped_and_counted(logs_dir: Path) -> None:
    log = make_log(logs_dir)
    (logs_dir / "vm.stdout.0").unlink()
    for number in range(20):
        (logs_dir / f"vm.stdout.{number}").mkdir()
    log.write(b"text")
    log.close()
    assert log.dropped_bytes == 4


def test_a_logs_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "alloc").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "alloc" / "logs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="alloc/logs"):
        make_log(tmp_path / "alloc" / "logs")
    with pytest.raises(HostError, match="nothing/logs"):
        make_log(tmp_path / "nothing" / "logs")


def test_a_directory_swapped_later_leads_nowhere(logs_dir: Path, tmp_path: Path) -> None:
    log = make_log(logs_dir)
    moved = logs_dir.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    logs_dir.symlink_to(tmp_path / "elsewhere")
    log.write(b"x" * 250)
    log.close()
    assert names(tmp_path / "elsewhere") == []
    assert content(moved) == b""
    assert log.dropped_bytes == 250


def test_a_log_holds_no_open_file_between_two_writes(logs_dir: Path) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    log = make_log(logs_dir)
    log.write(b"x" * 250)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_full_disk_drops_text_counts_it_and_says_so_when_there_is_room(
    logs_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = make_log(logs_dir, max_file_bytes=1000)
    log.write(b"before\n")
    mend = refuse_writes(monkeypatch)
    log.write(b"lost\n")
    log.write(b"lost too\n")
    assert log.dropped_bytes == 14
    assert len(caplog.records) == 1
    mend()
    log.write(b"after\n")
    log.close()
    assert content(logs_dir) == (b"before\n[14 bytes lost: the log could not be written]\nafter\n")


def test_a_disk_that_takes_a_part_keeps_that_part_and_counts_the_rest(
    logs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, write, left = make_log(logs_dir), os.write, 3

    def nearly_full(fd: int, data: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(fd, bytes(data)[:left])
        left -= count
        return count

    monkeypatch.setattr(os, "write", nearly_full)
    log.write(b"0123456789")
    log.close()
    assert content(logs_dir) == b"012"
    assert log.dropped_bytes == 7


def test_a_disk_without_room_for_the_first_file_does_not_stop_the_start(
    logs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        real = TaskLog._open
        patch.setattr(TaskLog, "_open", full)
        log = make_log(logs_dir)
        log.write(b"lost")
        patch.setattr(TaskLog, "_open", real)
    log.write(b"kept")
    log.close()
    assert content(logs_dir).endswith(b"lost: the log could not be written]\nkept")


def test_a_file_that_somebody_removed_is_made_again(logs_dir: Path) -> None:
    log = make_log(logs_dir)
    log.write(b"gone\n")
    (logs_dir / "vm.stdout.0").unlink()
    log.write(b"here\n")
    log.close()
    assert content(logs_dir) == b"here\n"


def test_a_directory_that_nomad_removed_costs_the_text_only(logs_dir: Path) -> None:
    log = make_log(logs_dir)
    (logs_dir / "vm.stdout.0").unlink()
    logs_dir.rmdir()
    log.write(b"late\n")
    assert log.dropped_bytes == 5
    log.close()


def test_a_closed_log_counts_what_it_drops(logs_dir: Path) -> None:
    log = make_log(logs_dir)
    log.close()
    log.close()
    log.write(b"late")
    assert log.dropped_bytes == 4


@settings(max_examples=60)
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.integers(0, 300).map(lambda size: b"x" * size),
            st.integers(0, 30).map(lambda count: b"a line\n" * count),
        ),
        max_size=20,
    ),
    max_file_bytes=st.integers(1, 120),
    restart_every=st.integers(1, 5),
)
def test_nothing_is_lost_or_doubled_over_rotations_and_restarts(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[bytes],
    max_file_bytes: int,
    restart_every: int,
) -> None:
    logs_dir = tmp_path_factory.mktemp("a") / "alloc" / "logs"
    logs_dir.mkdir(parents=True)
    log = make_log(logs_dir, max_files=10_000, max_file_bytes=max_file_bytes)
    for number, piece in enumerate(pieces):
        log.write(piece)
        if number % restart_every == 0:
            log.close()
            log = make_log(logs_dir, max_files=10_000, max_file_bytes=max_file_bytes)
    log.close()
    assert log.dropped_bytes == 0
    assert content(logs_dir) == b"".join(pieces)
    assert all(path.stat().st_size <= max_file_bytes for path in logs_dir.iterdir())
