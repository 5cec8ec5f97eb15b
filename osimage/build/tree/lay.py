"""Our own files, laid over a root.

Owns how they get there: as root's, with the modes that Git keeps (0755 or 0644). A directory
that is there keeps its mode. Does not own what they are (`osimage/files`).
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from osimage.build.errors import BuildError

_MAX_LINKS = 40  # of a path, MAXSYMLINKS in include/linux/namei.h


def lay(files: Path, root: Path, *, only: Callable[[PurePosixPath], bool] | None = None) -> None:
    """Copy what is below `files` into `root`, over what is there.

    Args:
        files: A directory whose content is seen from /.
        root: The root.
        only: Tells by its path below the root whether a file is wanted.
    """
    for source in sorted(files.rglob("*")):
        name = source.relative_to(files)
        if "__pycache__" in name.parts or (only is not None and not only(PurePosixPath(name))):
            continue
        if source.is_dir() and not source.is_symlink():
            _make_directory(root, name)
            continue
        target = _make_directory(root, name.parent) / name.name
        _clear(target)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        else:
            shutil.copyfile(source, target)
            target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def _make_directory(root: Path, name: Path) -> Path:
    """Make a directory and its parents below `root`, and return it; links lead where they are seen.

    /lib is a link; /var/run is one to /run, which is the root's and not this machine's.
    """
    directory = root
    for part in name.parts:
        directory = resolve(root, PurePosixPath(directory.relative_to(root)) / part)
        if not directory.is_dir():
            directory.mkdir(parents=True)
            directory.chmod(0o755)
            os.chown(directory, 0, 0)
    return directory


def resolve(root: Path, name: PurePosixPath) -> Path:
    """Return where the path `name` leads in a system whose root is `root`; never outside of it.

    Raises:
        BuildError: links lead in a circle.
    """
    found: list[str] = []
    left = list(reversed(name.parts))
    followed = 0
    while left:
        part = left.pop()
        if part == "..":
            del found[-1:]
        elif part not in (".", "/"):
            path = root.joinpath(*found, part)
            if not path.is_symlink():
                found.append(part)
                continue
            followed += 1
            if followed > _MAX_LINKS:
                raise BuildError(f"links lead in a circle at /{name} of the image")
            target = PurePosixPath(path.readlink())
            if target.is_absolute():
                found.clear()
            left += reversed(target.parts)
    return root.joinpath(*found)


def _clear(target: Path) -> None:
    """Remove the file or link that would be followed."""
    if target.is_symlink() or target.exists():
        target.unlink()
