"""The check of an image's tables by qemu-img, in a sandbox.

Owns running the check and what its result means. Does not own the check of the header, which
`imagefile.inspect` has made before any tool opens the file, nor the sandbox
(`host.process.sandbox`).

The check of the header reads the first cluster and the L1 table; this one reads all tables, as a
damaged one makes QEMU fail while a guest runs. qemu-img is a large parser that reads a hostile file
here: it gets a user of its own, no network, and no file but the image, whatever the image names.
The format is given and never probed, and a backing file is not opened.
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
"""For a slow or shared disk; a check that computes for long ends at the limit of CPU time."""

_NOT_RUN = (126, 127)
"""Exit codes of a program that could not be executed (man 1 sh)."""

_WORDS_MAX_CHARS = 200
_NAME_END = "}}"
_sandbox = Sandbox(LIMITS)


class _ImageCheck(msgspec.Struct, frozen=True, rename="kebab"):
    """QAPI ImageCheck, which leaves out counts that are zero."""

    check_errors: int
    corruptions: int = 0
    leaks: int = 0


async def check_image(path: Path, image_format: ImageFormat) -> None:
    """Return if qemu-img finds no error in the tables of the image at `path`.

    Clusters that are in no table any more only waste space: such images are accepted. A raw image
    has no tables, and qemu-img is not started for it.

    Args:
        path: The image, in a directory that only we may enter; it gets the mode of a finished
            image, as the tool runs as another user.
        image_format: As `imagefile.inspect` has found it.

    Raises:
        UnsafeImageError: it is damaged, or the check exceeds its limits. The message is the reason,
            without the image's name.
        MissingPartError: qemu-img is not installed or does not run; the image was not checked.
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
    """Return if the result of qemu-img means that the image is intact. Pure.

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
            hint="create it again, or convert it on the machine that it comes from",
        )


def _open_for_all(path: Path) -> int:
    """Return a descriptor of `path`, after giving all users the right to read the file."""
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
    """Return the name by which qemu-img opens the file in this format, and no other file."""
    node = {
        "driver": image_format.value,
        "backing": None,
        "file": {"driver": "file", "filename": name},
    }
    return f"json:{json.dumps(node)}"


def _ending(done: Completed) -> str:
    """Return how it ended, for an image that it could not check."""
    if done.returncode < 0:
        return f"it {describe_exit(done.returncode)}, as at its limits of CPU and memory"
    return _words(done) or f"exit code {done.returncode}"


def _words(done: Completed) -> str:
    """Return its error on one line of printable text: parts of it come from the image."""
    text = " ".join(done.stderr.decode(errors="replace").split())
    # Without our name of the file, which has no meaning for a reader.
    text = text.partition(f"{_NAME_END}': ")[2] or text
    return "".join(char if char.isprintable() else "?" for char in text[:_WORDS_MAX_CHARS])
