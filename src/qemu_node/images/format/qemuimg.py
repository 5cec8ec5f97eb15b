"""qemu-img's own opinion of an image, asked in a sandbox.

Owns the question and what its answer means. Does not own what the header may say, which
`imagefile.inspect` has judged before any tool opens the file, nor the sandbox
(`host.process.sandbox`).

The header check reads the first cluster and the L1 table; this reads all tables, where damage makes
QEMU fail in the middle of a guest's life. A parser of 30 years meets a hostile file here: it gets a
user of its own, no network, and no file but the image, whatever the image names. The format is
stated and never probed, and a backing file is cut off.
"""

import asyncio
import contextlib
import json
import os
import shutil
import stat
from pathlib import Path

import msgspec

from qemu_node.errors import HostError, MissingPartError
from qemu_node.host.files.atomic import host_error
from qemu_node.host.process.command import SAFE_ENV, Completed, ProcessError
from qemu_node.host.process.exitstatus import describe_exit
from qemu_node.host.process.privileges import ToolLimits
from qemu_node.host.process.sandbox import Sandbox
from qemu_node.images.errors import ImageStorageError, UnsafeImageError
from qemu_node.images.format.imagefile import IMAGE_MODE, ImageFormat
from qemu_node.text import DECODE_ERRORS
from qemu_node.units import GIB, MIB

LIMITS = ToolLimits(memory_bytes=GIB, cpu_s=30, file_bytes=32 * MIB)
"""An image of 256 GiB in clusters of 64 KiB needs some 10 MiB beside the program. Each leaked
cluster is a line of 60 bytes on stderr, and half a million of them are still no damage."""

_TIMEOUT_S = 300.0
"""The time for a disk that is slow or shared; the CPU's limit ends a check that is only long."""

_NOT_RUN = (126, 127)
"""Exit codes of a program that could not be executed (man 1 sh)."""

_WORDS_MAX_CHARS = 200
_NAME_END = "}}"
_sandbox = Sandbox(LIMITS)


class _ImageCheck(msgspec.Struct, frozen=True, rename="kebab"):
    """QAPI ImageCheck, of which zero counts are left out."""

    check_errors: int
    corruptions: int = 0
    leaks: int = 0


async def check_image(path: Path, image_format: ImageFormat) -> None:
    """Return where qemu-img finds the tables of the image at `path` in order.

    Clusters that are in nobody's table any more only waste space: such images are fine. A raw image
    has no tables, and no program is asked about it.

    Args:
        path: The image, in a directory of ours alone; it gets the mode of a finished image, for the
            tool is another user.
        image_format: What `imagefile.inspect` has found.

    Raises:
        UnsafeImageError: it is damaged, or checking it needs more than an image may. The message is
            the reason, to follow the image's name.
        MissingPartError: qemu-img is not installed or does not run; nothing is known of the image.
        ImageStorageError: the host could not read it, or not in time; a retry may help.
    """
    if image_format is ImageFormat.RAW:
        return
    program = shutil.which("qemu-img", path=SAFE_ENV["PATH"])
    if program is None:
        raise MissingPartError("qemu-img is not installed", hint="apt install qemu-utils")
    fd = await asyncio.to_thread(_open_for_all, path)
    try:
        done = await _sandbox.run(
            lambda name: [program, "check", "-U", "--output=json", _pinned(name, image_format)],
            fd,
            timeout_s=_TIMEOUT_S,
        )
    except ProcessError as exc:
        raise ImageStorageError(f"cannot check {path}: {exc}") from exc
    finally:
        os.close(fd)
    judge_check(done)


def judge_check(done: Completed) -> None:
    """Return where what qemu-img said means that the image is in order. Pure.

    Raises:
        UnsafeImageError, MissingPartError: as `check_image` does.
    """
    if done.returncode in _NOT_RUN:
        raise MissingPartError(f"qemu-img does not run: {_words(done)}")
    try:
        found = msgspec.json.decode(done.stdout, type=_ImageCheck)
    except DECODE_ERRORS:
        found = None
    if done.returncode < 0 or found is None:
        raise UnsafeImageError(f"qemu-img cannot check it: {_ending(done)}")
    if found.corruptions or found.check_errors:
        raise UnsafeImageError(
            f"it is corrupt: qemu-img finds {found.corruptions} corruptions and "
            f"{found.check_errors} errors in its tables",
            hint="make it anew, or convert it on the machine that it comes from",
        )


def _open_for_all(path: Path) -> int:
    """Return a descriptor of `path`, which everybody may read who can get at it."""
    with contextlib.ExitStack() as undo:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.callback(os.close, fd)
            mode = os.fstat(fd).st_mode
            if stat.S_ISREG(mode) and not mode & stat.S_IROTH:
                os.fchmod(fd, IMAGE_MODE)
        except OSError as exc:
            raise _storage_error("open", path, exc) from exc
        if not stat.S_ISREG(mode):
            raise UnsafeImageError("it is not a regular file")
        undo.pop_all()
    return fd


def _storage_error(action: str, path: Path, exc: OSError) -> ImageStorageError:
    error: HostError = host_error(action, path, exc)
    return ImageStorageError(str(error), hint=error.hint)


def _pinned(name: str, image_format: ImageFormat) -> str:
    """Return the name under which qemu-img opens the file as this format and nothing beside it."""
    node = {
        "driver": image_format.value,
        "backing": None,
        "file": {"driver": "file", "filename": name},
    }
    return f"json:{json.dumps(node)}"


def _ending(done: Completed) -> str:
    """Return how it ended, for an image that it could not judge."""
    if done.returncode < 0:
        return f"it {describe_exit(done.returncode)}, as at its limits of CPU and memory"
    return _words(done) or f"exit code {done.returncode}"


def _words(done: Completed) -> str:
    """Return what it complained of, on one line and fit to be shown: the image chose some of it."""
    text = " ".join(done.stderr.decode(errors="replace").split())
    # Not the name that we gave the file, which tells nobody anything.
    text = text.partition(f"{_NAME_END}': ")[2] or text
    return "".join(char if char.isprintable() else "?" for char in text[:_WORDS_MAX_CHARS])
