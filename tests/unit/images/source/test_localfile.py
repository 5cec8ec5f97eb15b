import os
from pathlib import Path

import pytest

from qemu_node.errors import HostError, ImageError, JobError
from qemu_node.images.source.localfile import copy_private, is_shared, open_local
from qemu_node.images.source.name import PathSource
from qemu_node.units import Share


@pytest.fixture
def task_dir(tmp_path: Path) -> Path:
    (tmp_path / "task" / "local").mkdir(parents=True)
    return tmp_path / "task"


@pytest.fixture
def operators(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    (directory / "debian.raw").write_bytes(b"debian")
    return directory


def opened(text: str, task_dir: Path, *image_paths: Path) -> bytes:
    path, fd = open_local(PathSource(text), task_dir, image_paths)
    try:
        assert path.is_absolute()
        return os.pread(fd, 100, 0)
    finally:
        os.close(fd)


def test_relative_path_is_below_the_task_directory(task_dir: Path) -> None:
    (task_dir / "local" / "a b.raw").write_bytes(b"content")
    assert opened("local/a b.raw", task_dir) == b"content"


def test_absolute_path_into_the_task_directory_is_accepted(task_dir: Path) -> None:
    (task_dir / "local" / "x").write_bytes(b"content")
    assert opened(str(task_dir / "local" / "x"), task_dir) == b"content"


@pytest.fixture
def shared(task_dir: Path) -> Path:
    """`alloc` of the allocation, to which all tasks of the group write."""
    (task_dir.parent / "alloc" / "data").mkdir(parents=True)
    (task_dir.parent / "other" / "local").mkdir(parents=True)
    (task_dir.parent / "other" / "local" / "x").write_bytes(b"another task's")
    return task_dir.parent / "alloc"


@pytest.mark.parametrize("isolation", ["host", "container"])
def test_nomads_variables_name_files_of_the_allocation_in_every_isolation_mode(
    task_dir: Path, shared: Path, isolation: str
) -> None:
    local, alloc = {
        "host": (str(task_dir / "local"), str(shared)),
        "container": ("/local", "/alloc"),
    }[isolation]
    (task_dir / "local" / "disk").write_bytes(b"own")
    (shared / "data" / "disk").write_bytes(b"handed over")
    assert opened(f"{local}/disk", task_dir) == b"own"
    assert opened(f"{alloc}/data/disk", task_dir) == b"handed over"


def test_the_operators_directory_goes_before_nomads_names(task_dir: Path, operators: Path) -> None:
    assert opened(str(operators / "debian.raw"), task_dir, operators) == b"debian"
    with pytest.raises(JobError, match="no such file"):
        open_local(PathSource("/local/absent"), task_dir, [Path("/local")])


def test_the_directories_of_other_tasks_are_elsewhere(task_dir: Path, shared: Path) -> None:
    for text in (str(shared.parent / "other" / "local" / "x"), "/other/local/x", "/alloc-x/y"):
        with pytest.raises(JobError, match="neither in the task's directories"):
            opened(text, task_dir)


def test_a_path_that_is_not_open_comes_with_the_setting_that_opens_it(
    task_dir: Path, operators: Path
) -> None:
    with pytest.raises(JobError) as caught:
        opened("/srv/disk.qcow2", task_dir, operators)
    assert caught.value.hint == (
        f"list /srv under images.image_paths in node.toml; now listed: {operators}"
    )


def test_nothing_leads_out_of_the_shared_directory(task_dir: Path, shared: Path) -> None:
    (shared / "data" / "link").symlink_to(shared.parent / "other" / "local" / "x")
    (shared / "up").symlink_to("../other/local")
    (shared / "hard").hardlink_to(shared.parent / "other" / "local" / "x")
    os.mkfifo(shared / "fifo")
    for name in ("data/link", "up/x", "hard", "fifo"):
        for alloc in ("/alloc", shared):
            with pytest.raises(ImageError, match="is refused"):
                opened(f"{alloc}/{name}", task_dir)


def test_a_shared_file_is_copied_with_its_holes_and_without_a_name(
    task_dir: Path, shared: Path, tmp_path: Path
) -> None:
    disk = shared / "data" / "disk"
    with disk.open("wb") as file:
        file.write(b"head")
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"middle")
    path, fd = open_local(PathSource("/alloc/data/disk"), task_dir, ())
    assert is_shared(path, task_dir)
    store = tmp_path / "store"
    store.mkdir()
    copy = copy_private(fd, store, Share())
    disk.write_bytes(b"changed")
    try:
        assert os.pread(copy, 4, 0) == b"head"
        assert os.pread(copy, 6, 32 << 20) == b"middle"
        info = os.fstat(copy)
        assert (info.st_size, info.st_nlink) == (64 << 20, 0)
        assert info.st_blocks * 512 < 1 << 20
        assert list(store.iterdir()) == []
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(copy, b"x")
    finally:
        os.close(copy)
        os.close(fd)


def test_a_copy_leaves_the_disks_reserve_alone(task_dir: Path, shared: Path) -> None:
    (shared / "disk").write_bytes(b"x")
    _, fd = open_local(PathSource("/alloc/disk"), task_dir, ())
    try:
        with pytest.raises(HostError, match="reserve"):
            copy_private(fd, task_dir, Share(pct=100.0))
    finally:
        os.close(fd)


def test_file_under_image_paths_is_accepted(task_dir: Path, operators: Path) -> None:
    assert opened(str(operators / "debian.raw"), task_dir, operators) == b"debian"


def test_operators_file_may_have_other_names(task_dir: Path, operators: Path) -> None:
    (operators / "latest.raw").hardlink_to(operators / "debian.raw")
    assert opened(str(operators / "latest.raw"), task_dir, operators) == b"debian"


def test_path_elsewhere_is_refused_naming_image_paths(task_dir: Path, operators: Path) -> None:
    with pytest.raises(JobError) as error:
        opened("/etc/passwd", task_dir, operators)
    assert str(operators) in error.value.explain()


def test_directory_with_the_same_beginning_is_elsewhere(task_dir: Path, operators: Path) -> None:
    sibling = operators.with_name("images-private")
    sibling.mkdir()
    (sibling / "x").write_bytes(b"secret")
    with pytest.raises(JobError):
        opened(str(sibling / "x"), task_dir, operators)


@pytest.mark.parametrize("target", ["/etc/passwd", "real"])
def test_symbolic_link_is_refused(task_dir: Path, target: str) -> None:
    (task_dir / "local" / "real").write_bytes(b"content")
    (task_dir / "local" / "link").symlink_to(target)
    with pytest.raises(ImageError, match="symbolic link"):
        opened("local/link", task_dir)


def test_symbolic_link_on_the_way_is_refused(task_dir: Path) -> None:
    (task_dir / "local" / "etc").symlink_to("/etc")
    with pytest.raises(ImageError, match="symbolic link"):
        opened("local/etc/passwd", task_dir)


def test_hard_link_in_the_task_directory_is_refused(task_dir: Path, operators: Path) -> None:
    (task_dir / "local" / "x").hardlink_to(operators / "debian.raw")
    with pytest.raises(ImageError, match="hard link"):
        opened("local/x", task_dir)


def test_fifo_is_refused_without_waiting_for_a_writer(task_dir: Path) -> None:
    os.mkfifo(task_dir / "local" / "fifo")
    with pytest.raises(ImageError, match="not a regular file"):
        opened("local/fifo", task_dir)


def test_missing_file_is_the_jobs_error(task_dir: Path) -> None:
    with pytest.raises(JobError, match=r"local/x: no such file in .*/task") as caught:
        opened("local/x", task_dir)
    assert f"`ls {task_dir}` shows" in (caught.value.hint or "")
