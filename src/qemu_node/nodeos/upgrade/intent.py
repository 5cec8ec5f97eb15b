"""What `qemu-node os upgrade` tells the hooks that Elemental runs for it.

Owns the file in /run. Without it, or with one of an upgrade that is over, Elemental was called
directly, and the hooks know only what is in the new image.
"""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import msgspec

from qemu_node.host.files.atomic import write_atomic
from qemu_node.host.files.directories import make_directory
from qemu_node.host.process.identity import ProcessId, is_alive
from qemu_node.nodeos.paths import NodePaths
from qemu_node.text import DECODE_ERRORS


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """An upgrade that is in progress."""

    pid: int
    start_time: int
    """Of the process `pid`: another one may have the number later."""
    digest: str
    tag: str = ""
    source: str = ""
    created: str = ""
    unpacked_bytes: int | None = None
    bootloader: bool = False
    """Whether the boot loader is replaced, too."""


def _path(paths: NodePaths) -> Path:
    return paths.run / "upgrade.json"


@contextlib.contextmanager
def announced(paths: NodePaths, intent: Intent) -> Generator[None]:
    """Have the hooks know of an upgrade inside the block.

    Raises:
        HostError: it cannot be written down.
    """
    path = _path(paths)
    make_directory(paths.run, 0o755)
    write_atomic(path, msgspec.json.encode(intent), mode=0o600)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def read_intent(paths: NodePaths) -> Intent | None:
    """Return the upgrade of ours that runs now; None if there is none."""
    try:
        intent = msgspec.json.decode(_path(paths).read_bytes(), type=Intent)
    except (OSError, *DECODE_ERRORS):
        return None
    runs = is_alive(ProcessId(pid=intent.pid, start_time=intent.start_time))
    return intent if runs or intent.pid == os.getpid() else None
