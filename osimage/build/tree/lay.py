"""Our own files, laid over a root.

Owns how they get there: as root's, with the modes that Git keeps (0755 or 0644). A directory
that is there keeps its mode. Does not own what they are (`osimage/files`).
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath


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
        target = root / name
        if source.is_symlink():
            _make_parents(target, root)
            _clear(target)
            target.symlink_to(source.readlink())
        elif source.is_dir():
            _make_directory(target)
        else:
            _make_parents(target, root)
            _clear(target)
            shutil.copyfile(source, target)
            target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def _make_parents(target: Path, root: Path) -> None:
    for directory in reversed(target.relative_to(root).parents[:-1]):
        _make_directory(root / directory)


def _make_directory(directory: Path) -> None:
    """Make a directory, unless it or a link to one is there (/lib is one)."""
    if not directory.is_dir():
        directory.mkdir()
        directory.chmod(0o755)
        os.chown(directory, 0, 0)


def _clear(target: Path) -> None:
    """Remove the file or link that would be followed."""
    if target.is_symlink() or target.exists():
        target.unlink()
