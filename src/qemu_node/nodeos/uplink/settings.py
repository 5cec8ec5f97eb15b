"""Where a node's `[uplink]` comes from.

Before networkd starts /data is not mounted. So /oem has the settings: `uplink.toml`, which the
operator or a seed wrote, and a copy of `[uplink]` of node.toml, which has precedence. Owns this
order and that copy. Does not own the settings (`config.uplink`).
"""

import os
from dataclasses import dataclass
from pathlib import Path

from qemu_node.config.node import CONFIG_ENV
from qemu_node.config.uplink import UplinkConfig
from qemu_node.config.uplinkfile import find_known_uplink, find_uplink, format_uplink
from qemu_node.errors import ConfigError, NodeError
from qemu_node.host.files.atomic import host_error, write_atomic
from qemu_node.host.files.mountinfo import parse_mounts
from qemu_node.nodeos.paths import NodePaths

_COPY_HEADER = "# [uplink] of {origin}: copied, so that it applies before /data is mounted.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The settings that apply."""

    settings: UplinkConfig
    origin: str = ""
    """The file that they are from; empty: there is none."""
    problems: tuple[str, ...] = ()
    """Files that could not be used, in words."""


def state_dir(paths: NodePaths, mountinfo: str) -> Path:
    """Return where this node keeps what outlives a boot: /oem if that is mounted."""
    if any(mount.point == Path("/oem") for mount in parse_mounts(mountinfo)):
        return paths.own
    return paths.root / "var/lib/qemu-node"


def copy_of(directory: Path) -> Path:
    """Return the copy of `[uplink]` of node.toml."""
    return directory / "uplink-node.toml"


def node_tomls(paths: NodePaths) -> tuple[Path, ...]:
    """Return where node.toml may be; the first that exists counts."""
    named = [name for name in os.environ.get(CONFIG_ENV, "").split(os.pathsep) if name]
    if named:
        return tuple(paths.root / name.lstrip("/") for name in named)
    return (paths.config / "node.toml", paths.root / "etc/qemu-node/node.toml")


def find_settings(paths: NodePaths, directory: Path) -> Found:
    """Return the settings of this boot. A file that is wrong is left out, and said."""
    problems: list[str] = []
    for path in (*node_tomls(paths), copy_of(directory), paths.uplink):
        try:
            settings, left_out = find_known_uplink(path.read_text(), str(path))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as exc:
            problems.append(f"{path} cannot be read: {exc}")
            continue
        except ConfigError as exc:
            problems.append(exc.explain())
            continue
        problems += left_out
        if settings is not None:
            return Found(settings=settings, origin=str(path), problems=tuple(problems))
    return Found(settings=UplinkConfig(), problems=tuple(problems))


def keep_copy(paths: NodePaths, directory: Path) -> UplinkConfig | None:
    """Copy `[uplink]` of node.toml for the next boot; return it, or None if node.toml has none.

    Without a node.toml nothing is changed: the disk with it may be missing.

    Raises:
        NodeError: node.toml is wrong or the copy cannot be written; an earlier copy is as it was.
    """
    path = next((path for path in node_tomls(paths) if path.exists()), None)
    if path is None:
        return None
    try:
        settings = find_uplink(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as exc:
        raise NodeError(f"{path} cannot be read: {exc}") from exc
    copy = copy_of(directory)
    # On Debian the boot reads node.toml itself; the image's own default says nothing.
    if path.is_relative_to(paths.root / "etc"):
        return settings
    try:
        if settings is None:
            copy.unlink(missing_ok=True)
            return None
        text = _COPY_HEADER.format(origin=path) + format_uplink(settings)
        if not copy.exists() or copy.read_text(errors="replace") != text:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomic(copy, text.encode(), mode=0o600, is_durable=True)
    except OSError as exc:
        raise host_error("write", copy, exc) from exc
    return settings
