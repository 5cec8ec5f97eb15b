import os
from pathlib import Path

import pytest

from qemu_node.errors import ImageError, JobError
from qemu_node.images.localfile import open_local
from qemu_node.images.source import PathSource


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
    with pytest.raises(JobError, match=r"local/x: no such file in .*/task"):
        opened("local/x", task_dir)
