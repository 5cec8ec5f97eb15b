"""What an earlier installation left on a disk: read by mounting its partitions read-only.

Owns the answer to whether an unattended installation may take a disk that is not empty: its own
work, which a power cut has ended, or a node that this very seed has installed. Does not own what a
person is asked (`choice`).
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from qemu_node.errors import NodeError
from qemu_node.host.files.beneath import is_plain_file, open_beneath
from qemu_node.host.process.command import run_blocking
from qemu_node.nodeos.setup.disks import DATA_LABEL, Disk
from qemu_node.nodeos.setup.seed import SEED_MAX_BYTES

_MOUNT_S = 60.0
_PARTITION_NAMES = frozenset({"efi", "oem", "recovery", "state", "persistent", "data"})
"""The names of the partitions that Elemental makes (pkg/constants/constants.go), and of DATA."""
_NOTHING = frozenset({"lost+found"})
_SEED = "qemu-node/seed.toml"


class Leftover(StrEnum):
    """What is on a disk."""

    UNKNOWN = "unknown"
    """Something that must not be erased unasked."""
    UNFINISHED = "unfinished"
    """An installation that did not come to its end; nothing on it is of use."""
    INSTALLED = "installed"
    """The node that this seed describes, whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What was found on the partitions of an installation."""

    partition_names: frozenset[str]
    has_state: bool
    """state.yaml is there: Elemental writes it last."""
    seed: bytes | None
    """The seed of the installation; None if there is none."""
    has_data: bool
    """Somebody's files are on the partitions for logs, settings or data."""


def judge_content(content: Content, seed: bytes) -> Leftover:
    """Return what a disk holds, for the installation by `seed`: pure."""
    if not content.partition_names or not content.partition_names <= _PARTITION_NAMES:
        return Leftover.UNKNOWN
    if content.has_state:
        return Leftover.INSTALLED if content.seed == seed else Leftover.UNKNOWN
    if content.has_data or content.seed not in (None, seed):
        return Leftover.UNKNOWN
    return Leftover.UNFINISHED


def find_leftover(disk: Disk, seed: bytes) -> Leftover:
    """Return what an earlier installation left on `disk`. Blocks for mounts; changes nothing.

    Raises:
        NodeError: a partition could not be looked at.
    """
    parts = [volume for volume in disk.volumes if volume.path != disk.path]
    if len(parts) != len(disk.volumes) or len(parts) != len({part.partlabel for part in parts}):
        return Leftover.UNKNOWN
    names = frozenset(part.partlabel for part in parts)
    if not names <= _PARTITION_NAMES:
        return Leftover.UNKNOWN
    by_name = {part.partlabel: part for part in parts}
    found_seed, has_state, has_data = None, False, False
    for name in ("state", "oem", "persistent", "data"):
        part = by_name.get(name)
        if part is None or not part.fstype:
            continue
        # `noload`: a journal that is not clean would be replayed, which writes.
        options = "ro,noload" if part.fstype.startswith("ext") else "ro"
        with mounted(part.path, options=options) as root:
            content = {path.name for path in root.iterdir()} - _NOTHING
            if name == "state":
                has_state = "state.yaml" in content
            elif name == "oem":
                found_seed = read_kept_seed(root)
                has_data = has_data or (bool(content) and found_seed is None)
            else:
                has_data = has_data or bool(content)
    if any(part.label == DATA_LABEL and part.partlabel != "data" for part in parts):
        return Leftover.UNKNOWN
    return judge_content(
        Content(partition_names=names, has_state=has_state, seed=found_seed, has_data=has_data),
        seed,
    )


def read_kept_seed(root: Path) -> bytes | None:
    """Return the seed that an installation left below `root`; None if there is none.

    Somebody else may have written that disk: no link leads elsewhere, no FIFO is waited for, and a
    file larger than a seed is not read to its end.
    """
    with contextlib.ExitStack() as opened:
        try:
            directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, directory)
            fd = open_beneath(directory, _SEED, os.O_RDONLY | os.O_NONBLOCK)
            opened.callback(os.close, fd)
            if is_plain_file(fd):
                with open(fd, "rb", closefd=False) as file:
                    return file.read(SEED_MAX_BYTES + 1)
        except OSError:
            return None
    return None


@contextlib.contextmanager
def mounted(device: str, *, options: str = "ro") -> Iterator[Path]:
    """Mount `device` in a directory of our own for the time of the block.

    Raises:
        NodeError: it cannot be mounted.
    """
    with tempfile.TemporaryDirectory(prefix="qemu-node-") as directory:
        run_blocking(
            ["mount", "-o", f"{options},nosuid,nodev,noexec", device, directory],
            timeout_s=_MOUNT_S,
        )
        try:
            yield Path(directory)
        finally:
            with contextlib.suppress(NodeError):
                run_blocking(["umount", directory], timeout_s=_MOUNT_S)
