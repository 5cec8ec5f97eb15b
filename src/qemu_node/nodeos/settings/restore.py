"""Putting a saved configuration back on an installed node.

Owns which files are written, in which order, and what becomes of those that are in the way. What
was there is saved first. Killed at any step, it can be done again with the same archive.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import host_error, write_atomic
from qemu_node.host.files.directories import open_directory, open_parents
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.settings.archive import Saved, collect, pack
from qemu_node.nodeos.settings.datamount import file_mode

_PRIVATE_MODE = 0o600
_OEM_DIRECTORY_MODE = 0o700
_CONFIG_DIRECTORY_MODE = 0o755


def changes(now: Saved, wanted: Saved) -> list[str]:
    """Return what a restoration changes, a line each: pure."""
    return [
        *_changes("/data/config", now.config, wanted.config, removes=True),
        *_changes("/oem", now.oem, wanted.oem, removes=False),
    ]


def _changes(
    place: str, now: Mapping[str, bytes], wanted: Mapping[str, bytes], *, removes: bool
) -> list[str]:
    lines = [
        f"{'change' if name in now else 'create'} {place}/{name}"
        for name in sorted(wanted)
        if now.get(name) != wanted[name]
    ]
    if removes:
        lines += [f"remove {place}/{name}" for name in sorted(set(now) - set(wanted))]
    return lines


def restore(
    paths: NodePaths, wanted: Saved, *, tag: str, is_data_mounted: bool, now: datetime
) -> Path:
    """Make the node's configuration that of `wanted`; return the file in which the earlier one is.

    Without /data its part waits on /oem until that is mounted. What an archive does not have is
    removed from /data/config, because Nomad reads every *.hcl there; settings on /oem stay.

    Raises:
        HostError: a file cannot be written; some are as they were.
    """
    directory = paths.data if is_data_mounted else paths.own
    open_directory(directory, _CONFIG_DIRECTORY_MODE if is_data_mounted else _OEM_DIRECTORY_MODE)
    before = collect(paths, tag)
    kept = directory / f"config-before-{now:%Y%m%dT%H%M%S}.tar.gz"
    write_atomic(kept, pack(before), mode=_PRIVATE_MODE, is_durable=True)
    config = paths.config if is_data_mounted else paths.staged_config
    for name, data in wanted.config.items():
        mode = file_mode(name) if is_data_mounted else _PRIVATE_MODE
        _write(config, name, data, mode, is_data_mounted=is_data_mounted)
    for name, data in wanted.oem.items():
        _write(paths.oem, name, data, _PRIVATE_MODE, is_data_mounted=False)
    if is_data_mounted:
        for name in set(before.config) - set(wanted.config):
            try:
                (paths.config / name).unlink(missing_ok=True)
            except OSError as exc:
                raise host_error("remove", paths.config / name, exc) from exc
    return kept


def _write(directory: Path, name: str, data: bytes, mode: int, *, is_data_mounted: bool) -> None:
    directory_mode = _CONFIG_DIRECTORY_MODE if is_data_mounted else _OEM_DIRECTORY_MODE
    path = directory / name
    if path.is_dir():
        raise HostError(f"{path} is a directory", hint="remove it, then restore again")
    open_parents(directory, path, directory_mode)
    write_atomic(path, data, mode=mode, is_durable=True)
