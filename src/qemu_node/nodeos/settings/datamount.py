"""What is done when /data is mounted: its disk is remembered, and the seed's configuration copied.

Owns both. The disk is remembered by its link in /dev/disk, because labels and UUIDs are on a copy
of it, too; the udev rule 62-qemu-node-data.rules reads that. Does not own the mount (data.mount).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import host_error, write_atomic
from qemu_node.host.files.directories import make_directory, open_parents
from qemu_node.host.files.tree import remove_tree
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.setup.choice import disk_key
from qemu_node.nodeos.setup.disks import Disk

KEPT_SUFFIX = ".before-seed"
"""What an earlier file of the configuration is renamed to. Nomad reads *.hcl and *.json only."""

_DIRECTORY_MODE = 0o755
_PRIVATE_MODE = 0o600
_SETTINGS_MODE = 0o644


def file_mode(name: str) -> int:
    """Return the mode of a file of /data/config: pure.

    Others than Nomad, which is root, read node.toml and the public parts of TLS; the rest may hold
    a secret.
    """
    return _SETTINGS_MODE if name == "node.toml" else _PRIVATE_MODE


def data_disk(disks: Sequence[Disk], mount: str) -> str:
    """Return the link of the disk that is mounted on `mount`; empty if there is no such one: pure.

    A mirror of two disks has none.
    """
    found = [disk for disk in disks if mount in disk.mounts]
    return disk_key(found[0]) if len(found) == 1 else ""


def remember_disk(paths: NodePaths, key: str) -> bool:
    """Write down the disk of /data; return whether it is another one than before.

    Whoever mounts another disk on /data by hand, or labels a new one, decides by that.

    Raises:
        HostError: /oem cannot be written.
    """
    try:
        before = paths.data_disk.read_text(errors="replace").strip()
    except FileNotFoundError:
        before = ""
    except OSError as exc:
        raise host_error("read", paths.data_disk, exc) from exc
    if key == before:
        return False
    if not key:
        try:
            paths.data_disk.unlink()
        except OSError as exc:
            raise host_error("remove", paths.data_disk, exc) from exc
        return True
    make_directory(paths.own, 0o700)
    write_atomic(paths.data_disk, f"{key}\n".encode(), mode=_PRIVATE_MODE, is_durable=True)
    return True


def apply_config(paths: NodePaths) -> list[str]:
    """Copy the configuration that the installation left on /oem to /data/config; return its names.

    A file that is there with another content is kept beside, with `KEPT_SUFFIX`. Killed at any
    step, it is done again at the next mount.

    Raises:
        HostError: a file cannot be written; what was left on /oem is still there.
    """
    names = sorted(_files(paths.staged_config))
    for name in names:
        source, target = paths.staged_config / name, paths.config / name
        try:
            data = source.read_bytes()
        except OSError as exc:
            raise host_error("read", source, exc) from exc
        open_parents(paths.config, target, _DIRECTORY_MODE)
        _keep(target, data)
        write_atomic(target, data, mode=file_mode(name), is_durable=True)
    if paths.staged_config.exists():
        remove_tree(paths.staged_config)
    return names


def _keep(target: Path, data: bytes) -> None:
    """Rename another file that is in the way."""
    try:
        with suppress(FileNotFoundError):
            if target.read_bytes() != data:
                target.replace(_free_name(target))
    except IsADirectoryError:
        raise HostError(
            f"{target} is a directory", hint="remove it, then mount /data again"
        ) from None
    except OSError as exc:
        raise host_error("keep", target, exc) from exc


def _free_name(target: Path) -> Path:
    number = 0
    while True:
        kept = target.with_name(f"{target.name}{KEPT_SUFFIX}{number or ''}")
        if not kept.exists():
            return kept
        number += 1


def _files(directory: Path) -> Iterator[str]:
    for root, _, names in os.walk(directory):
        for name in names:
            yield str((Path(root) / name).relative_to(directory))
