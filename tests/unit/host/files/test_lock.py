import asyncio
import fcntl
import os
import stat
from pathlib import Path

import pytest

from qemu_node.errors import HostError
from qemu_node.host.files.lock import FileLock, LockBusyError, held_locks, is_locked, parse_locks

LOCKS = """\
1: FLOCK  ADVISORY  WRITE 4242 fe:0a:131074 0 EOF
1: -> FLOCK  ADVISORY  WRITE 4243 fe:0a:131075 0 EOF
2: POSIX  ADVISORY  WRITE 4244 fe:0a:131076 0 EOF
3: FLOCK  ADVISORY  WRITE 4245 garbage 0 EOF
4: FLOCK
"""


def test_a_held_lock_is_refused_to_everybody_else_and_to_its_holder(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.try_acquire()
    assert not one.try_acquire()
    assert not other.try_acquire()
    one.release()
    assert other.try_acquire()
    other.release()
    other.release()


def test_a_lock_file_is_ours_alone(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"):
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


def test_a_lock_file_that_was_removed_does_not_give_the_lock_to_two(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    old, new, late = FileLock(path), FileLock(path), FileLock(path)
    assert old.try_acquire()
    path.unlink()
    assert new.try_acquire()
    old.release()
    assert not late.try_acquire()
    new.release()


def test_a_lock_taken_on_a_file_that_vanished_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    real_open, opened = os.open, 0

    def open_then_lose(*args: object, **kwargs: object) -> int:
        nonlocal opened
        fd = real_open(*args, **kwargs)  # type: ignore[arg-type]
        opened += 1
        if opened == 1:
            path.unlink()
        return fd

    monkeypatch.setattr(os, "open", open_then_lose)
    lock = FileLock(path)
    assert lock.try_acquire()
    assert opened == 2
    assert path.exists()
    lock.release()


def test_a_lock_as_context_says_that_it_is_busy(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"), pytest.raises(LockBusyError), FileLock(tmp_path / "lock"):
        pass


async def test_acquire_waits_for_the_holder(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.try_acquire()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(other.acquire(60))
        await asyncio.sleep(0)
        assert not waiting.done()
        one.release()
        await waiting
    assert not one.try_acquire()
    other.release()


async def test_acquire_gives_up_at_its_deadline(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"), pytest.raises(LockBusyError, match=r"0\.05 s"):
        await FileLock(tmp_path / "lock").acquire(0.05)


def test_a_lock_in_a_missing_directory_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no/lock"):
        FileLock(tmp_path / "no" / "lock").try_acquire()


def test_a_thread_waits_for_a_lock_as_long_as_it_may(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    with (
        lock.hold_blocking(1),
        pytest.raises(LockBusyError, match=r"0\.05 s"),
        FileLock(tmp_path / "lock").hold_blocking(0.05),
    ):
        pass
    assert lock.try_acquire()
    lock.release()


def test_only_held_flocks_are_read_from_the_kernels_list() -> None:
    assert set(parse_locks(LOCKS)) == {(0xFE, 0x0A, 131074)}


def test_a_lock_held_by_anyone_is_seen_without_taking_it(tmp_path: Path) -> None:
    held, free = tmp_path / "held", tmp_path / "free"
    held.mkdir()
    free.mkdir()
    fd = os.open(held, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        locks = held_locks()
        assert is_locked(held, locks) is True
        assert is_locked(free, locks) is False
        assert is_locked(tmp_path / "absent", locks) is False
    finally:
        os.close(fd)
