import errno
import os
import stat
from pathlib import Path

import pytest

from qemu_node.host.files import beneath


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
