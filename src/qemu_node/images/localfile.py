"""Images that are on this host already: in the task's directory, or where the operator keeps some.

Owns the rule which files a job may name and the opening of one so that nobody can pass off another.
Does not own the judgement of its content (`imagefile`).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from qemu_node.errors import ImageError, JobError
from qemu_node.host import files
from qemu_node.images.errors import ImageStorageError
from qemu_node.images.source import PathSource


def open_local(source: PathSource, task_dir: Path, image_paths: Sequence[Path]) -> tuple[Path, int]:
    """Return the absolute path of `source` and a descriptor of the file that was found there.

    Tasks may write to the directories below `task_dir` and replace the file at any time: whoever
    needs the file that was checked uses the descriptor, not the path.

    Raises:
        JobError: the path is outside of what the job may name, or there is no such file.
        ImageError: it is a link or no regular file.
        ImageStorageError: the host refused to open it.
    """
    root, relative = _locate(source, task_dir, image_paths)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = files.open_beneath(root_fd, relative, flags)
        finally:
            os.close(root_fd)
    except OSError as exc:
        raise _open_error(source, root, exc) from exc
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, fd)
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise ImageError(f"image {source} is refused: it is not a regular file")
        # A task that cannot read a file of the host may still be able to link to it.
        if root == task_dir and info.st_nlink != 1:
            raise ImageError(f"image {source} is refused: it is a hard link")
        undo.pop_all()
    return root / relative, fd


def _locate(source: PathSource, task_dir: Path, image_paths: Sequence[Path]) -> tuple[Path, str]:
    """Return the directory that must not be left, and the path below it."""
    path = Path(source.path)
    if not path.is_absolute():
        return task_dir, str(path)
    for root in (task_dir, *image_paths):
        if path.is_relative_to(root):
            return root, str(path.relative_to(root))
    allowed = ", ".join(str(root) for root in image_paths) or "none on this node"
    raise JobError(
        f"image {source} is neither in the task directory nor under images.image_paths",
        hint=f"image_paths in node.toml: {allowed}",
    )


def _open_error(source: PathSource, root: Path, exc: OSError) -> ImageError | JobError:
    match exc.errno:
        case errno.ENOENT:
            return JobError(f"image {source}: no such file in {root}")
        case errno.ELOOP | errno.ENOTDIR:
            return ImageError(
                f"image {source} is refused: a symbolic link is on its path, or a file where a "
                "directory is needed"
            )
        case _:
            return ImageStorageError(f"cannot open image {source}: {exc.strerror}")
