"""Images that are on this host already: in the task's allocation, or in `images.image_paths`.

Owns which files a job may name, and opening one so that it cannot be replaced by another. Does not
own the check of its content (`format.imagefile`).

An allocation has two directories for a task: its own, and `alloc`, which all tasks of the group
share. Nomad's variables name them by host paths if the driver isolates no file system, else
`/local`, `/secrets` and `/alloc` (client/allocdir). Both are accepted here.
"""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qemu_node.errors import ImageError, JobError
from qemu_node.host.files import atomic, beneath, holes
from qemu_node.host.files.space import MakeRoom, make_no_room, require_free
from qemu_node.images.errors import ImageStorageError
from qemu_node.images.source.name import PathSource
from qemu_node.units import Share

_SHARED = "alloc"
_COPY_BYTES = 64 << 20


def open_local(source: PathSource, task_dir: Path, image_paths: Sequence[Path]) -> tuple[Path, int]:
    """Return the absolute path of `source` and a descriptor of the file that was found there.

    Tasks may write to the directories of an allocation and replace the file at any time: use the
    descriptor, not the path, for the file that was checked. If it `is_shared`, other tasks of the
    group can also change its content: use `copy_private` before it is checked.

    Raises:
        JobError: the path is outside of what the job may name, or there is no such file.
        ImageError: it is a link or not a regular file.
        ImageStorageError: the host refused to open it.
    """
    root, relative = _locate(source, task_dir, image_paths)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = beneath.open_beneath(root_fd, relative, flags)
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
        if root in (task_dir, task_dir.parent) and info.st_nlink != 1:
            raise ImageError(f"image {source} is refused: it is a hard link")
        undo.pop_all()
    return root / relative, fd


def is_shared(path: Path, task_dir: Path) -> bool:
    """Tell whether `path`, from `open_local`, is in the directory that the group's tasks share."""
    return path.is_relative_to(task_dir.parent / _SHARED)


def copy_private(
    fd: int, directory: Path, reserve: Share, make_room: MakeRoom = make_no_room
) -> int:
    """Return a read-only descriptor of a copy without a name, on the file system of `directory`.

    Holes stay holes. The kernel frees the space when the last process that has it open, the VM,
    ends. The original stays open. Blocks for the whole copy.

    Raises:
        HostError: the disk's reserve would be touched, or something could not be written.
    """
    info = os.fstat(fd)
    size = info.st_size
    require_free(directory, min(size, 512 * info.st_blocks), reserve, make_room)
    try:
        with tempfile.TemporaryFile(dir=directory) as copy:
            os.ftruncate(copy.fileno(), size)
            begin = holes.seek_data(fd, 0)
            while begin is not None and begin < size:
                end = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
                _copy_range(fd, copy.fileno(), begin, end)
                begin = holes.seek_data(fd, end)
            return os.open(f"/proc/self/fd/{copy.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise atomic.host_error("copy an image into", directory, exc) from exc


def _copy_range(source: int, target: int, begin: int, end: int) -> None:
    while begin < end:
        data = os.pread(source, min(end - begin, _COPY_BYTES), begin)
        if not data:
            return  # It has become shorter; the rest reads as zeros.
        begin += os.pwrite(target, data, begin)


def _locate(source: PathSource, task_dir: Path, image_paths: Sequence[Path]) -> tuple[Path, str]:
    """Return the directory that must not be left, and the path below it."""
    path = Path(source.path)
    if not path.is_absolute():
        return task_dir, str(path)
    # Of the allocation's directory a task may use only `alloc` and its own directory. The parent
    # belongs to Nomad, so neither of them can be replaced by a link.
    alloc_dir = task_dir.parent
    if path.is_relative_to(alloc_dir / _SHARED):
        return alloc_dir, str(path.relative_to(alloc_dir))
    for root in (task_dir, *image_paths):
        if path.is_relative_to(root):
            return root, str(path.relative_to(root))
    # Last, as `image_paths` may have such a directory of the host.
    match path.parts[1:]:
        case ("alloc", *_):
            return alloc_dir, str(path.relative_to("/"))
        case ("local" | "secrets", *_):
            return task_dir, str(path.relative_to("/"))
        case _:
            pass
    allowed = ", ".join(str(root) for root in image_paths) or "none"
    raise JobError(
        f"image {source} is neither in the task's directories nor under images.image_paths",
        hint=f"list {path.parent} under images.image_paths in node.toml; now listed: {allowed}",
    )


def _open_error(source: PathSource, root: Path, exc: OSError) -> ImageError | JobError:
    match exc.errno:
        case errno.ENOENT:
            return JobError(
                f"image {source}: no such file in {root}", hint=f"`ls {root}` shows what is there"
            )
        case errno.ELOOP | errno.ENOTDIR:
            return ImageError(
                f"image {source} is refused: a symbolic link is on its path, or a file where a "
                "directory is needed"
            )
        case _:
            return ImageStorageError(f"cannot open image {source}: {exc.strerror}")
