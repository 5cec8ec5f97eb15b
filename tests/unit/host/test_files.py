import asyncio
import errno
import os
import resource
import stat
import sys
from pathlib import Path

import pytest

from qemu_node.errors import HostError
from qemu_node.host.files import atomic, beneath, holes
from qemu_node.host.files.lock import FileLock, LockBusyError
from qemu_node.host.files.tree import remove_tree

MIB = 1 << 20


def test_write_atomic_replaces_the_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "vm.json"
    path.write_bytes(b"old")
    atomic.write_atomic(path, b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_sets_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        atomic.write_atomic(tmp_path / "f", b"", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644


def test_write_atomic_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    link = tmp_path / "link"
    link.symlink_to(target)
    atomic.write_atomic(link, b"new")
    assert target.read_bytes() == b"precious"
    assert not link.is_symlink()


def test_write_atomic_on_a_full_disk_keeps_the_old_content_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"old")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(HostError, match=r"state\.json: No space left") as caught:
        atomic.write_atomic(path, b"new")
    assert caught.value.hint is not None
    assert "free space" in caught.value.hint
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_writes_on_when_the_kernel_takes_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:3]))
    atomic.write_atomic(tmp_path / "f", b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


def test_write_atomic_into_a_missing_directory_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no/f"):
        atomic.write_atomic(tmp_path / "no" / "f", b"")


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


@pytest.fixture(params=["openat2", "components"])
def either_open(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with the system call and with what replaces it on an old kernel."""

    def unknown(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    if request.param == "components":
        monkeypatch.setattr(beneath, "_openat2", unknown)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory that a stranger has prepared, beside a secret."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("content")
    (root / "link").symlink_to("a/b/file")
    (root / "dirlink").symlink_to("a")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "magic").symlink_to("/proc/self/cwd")
    return root


def open_in(root: Path, relative: str, flags: int = os.O_RDONLY) -> int:
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        return beneath.open_beneath(directory, relative, flags)
    finally:
        os.close(directory)


@pytest.mark.usefixtures("either_open")
@pytest.mark.parametrize("relative", ["a/b/file", "./a//b/./file"])
def test_open_beneath_opens_a_file_below_and_close_on_exec(tree: Path, relative: str) -> None:
    fd = open_in(tree, relative)
    assert os.read(fd, 100) == b"content"
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.usefixtures("either_open")
@pytest.mark.parametrize(
    ("relative", "codes"),
    [
        ("link", {errno.ELOOP}),
        ("dirlink/b/file", {errno.ELOOP, errno.ENOTDIR}),
        ("out", {errno.ELOOP}),
        ("magic/x", {errno.ELOOP, errno.ENOTDIR}),
        ("../secret", {errno.EXDEV}),
        ("a/../../secret", {errno.EXDEV}),
        ("a/../a/b/file", {errno.EXDEV}),
        ("/etc/passwd", {errno.EXDEV}),
        ("a/b/file/x", {errno.ENOTDIR}),
        ("nothing", {errno.ENOENT}),
        ("a\0b", {errno.EINVAL}),
    ],
)
def test_open_beneath_follows_no_link_and_leaves_by_no_way(
    tree: Path, relative: str, codes: set[int]
) -> None:
    with pytest.raises(OSError, check=lambda exc: exc.errno in codes):
        open_in(tree, relative)


@pytest.mark.usefixtures("either_open")
def test_open_beneath_makes_a_file_with_the_given_mode(tree: Path) -> None:
    directory = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    fd = beneath.open_beneath(directory, "a/new", os.O_WRONLY | os.O_CREAT, mode=0o600)
    os.close(fd)
    os.close(directory)
    assert stat.S_IMODE((tree / "a" / "new").stat().st_mode) == 0o600


@pytest.mark.usefixtures("either_open")
def test_open_beneath_opens_the_directory_itself(tree: Path) -> None:
    fd = open_in(tree, ".", os.O_RDONLY | os.O_DIRECTORY)
    assert os.path.samestat(os.fstat(fd), tree.stat())
    os.close(fd)


def test_only_a_regular_file_with_one_name_is_plain(tmp_path: Path) -> None:
    plain, twin, pipe = tmp_path / "plain", tmp_path / "twin", tmp_path / "pipe"
    plain.touch()
    fd = os.open(plain, os.O_RDONLY)
    assert beneath.is_plain_file(fd)
    twin.hardlink_to(plain)
    assert not beneath.is_plain_file(fd)
    os.close(fd)
    os.mkfifo(pipe)
    for path in (pipe, tmp_path):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        assert not beneath.is_plain_file(fd)
        os.close(fd)


def test_a_punched_hole_gives_its_blocks_back_and_keeps_the_size(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 2 * MIB)
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    before = os.fstat(fd).st_blocks
    if not holes.punch_hole(fd, 0, MIB + 10):
        pytest.skip("this file system punches no holes")
    assert os.fstat(fd).st_size == 2 * MIB
    assert (before - os.fstat(fd).st_blocks) * 512 >= MIB - 65536
    assert os.pread(fd, 11, MIB) == b"\0" * 10 + b"x"
    data = holes.seek_data(fd, 0)
    assert data is not None
    assert 0 < data <= MIB + 10
    holes.punch_hole(fd, 0, 2 * MIB)
    assert holes.seek_data(fd, 0) is None
    os.close(fd)


def test_a_hole_that_cannot_be_punched_is_told_from_a_failure(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="seek"):
        holes.punch_hole(writing, 0, 1)
    os.close(reading)
    os.close(writing)


def test_remove_tree_removes_links_and_spares_what_they_point_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "link").symlink_to(kept)
    (tree / "file").touch()
    remove_tree(tree)
    assert not tree.exists()
    assert (kept / "file").exists()

    tree.symlink_to(kept)
    remove_tree(tree)
    assert not tree.is_symlink()
    assert (kept / "file").exists()


def test_remove_tree_of_nothing_or_of_a_file_is_fine(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")
    (tmp_path / "file").touch()
    remove_tree(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_remove_tree_of_any_depth_needs_no_more_files_open(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    directory = os.open(tree, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 500):
        os.mkdir("down", dir_fd=directory)
        os.close(os.open("file", os.O_CREAT, dir_fd=directory))
        below = os.open("down", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The next one that is opened has the lowest free number.
    resource.setrlimit(resource.RLIMIT_NOFILE, (directory + 20, limits[1]))
    try:
        remove_tree(tree)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(directory)
    assert not tree.exists()


def test_remove_tree_goes_on_when_somebody_else_removes_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").touch()
    (tree / "b").touch()
    unlink, calls = os.unlink, 0

    def raced(path: str, *, dir_fd: int | None = None) -> None:
        nonlocal calls
        calls += 1
        unlink(path, dir_fd=dir_fd)
        if calls == 1:
            raise FileNotFoundError(errno.ENOENT, "gone", path)

    monkeypatch.setattr(os, "unlink", raced)
    remove_tree(tree)
    assert not tree.exists()


def test_remove_tree_names_what_it_could_not_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()

    def busy(path: str, *, dir_fd: int | None = None) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    monkeypatch.setattr(os, "rmdir", busy)
    with pytest.raises(HostError, match=r"tree: Device or resource busy"):
        remove_tree(tmp_path / "tree")


@pytest.mark.parametrize(("is_durable", "synced"), [(False, []), (True, ["file", "directory"])])
def test_only_what_must_outlive_the_power_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_durable: bool, synced: list[str]
) -> None:
    seen: list[str] = []

    def fsync(fd: int) -> None:
        seen.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write_atomic(tmp_path / "f", b"x", is_durable=is_durable)
    assert seen == synced


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
