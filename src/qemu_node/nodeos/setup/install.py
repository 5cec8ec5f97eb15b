"""An installation: checked, then done by Elemental's installer.

Owns the order of things: every check comes before the first change; then the disk of /data, the
settings, and Elemental, which partitions the system's disk and copies the system. Killed at any
step, it can be done again. Does not own the decisions (`choice`, `staging`) nor who asks.
"""

import asyncio
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import HostError
from qemu_node.host.files.atomic import host_error, write_atomic
from qemu_node.host.files.tree import remove_tree
from qemu_node.host.process.command import SAFE_ENV, run_blocking, spawn
from qemu_node.host.process.exitstatus import describe_exit
from qemu_node.host.process.pidfd import Hold
from qemu_node.nodeos.paths import NodePaths
from qemu_node.nodeos.setup.choice import Choice, disk_key
from qemu_node.nodeos.setup.disks import DATA_LABEL
from qemu_node.nodeos.setup.staging import Settings, oem_files, write_files
from qemu_node.nodeos.snapshots.clean import system_lock

_MKFS_S = 900.0
# Elemental reads a proxy and the place of registry credentials from its environment.
_PASSED_ON = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What is to be done."""

    choice: Choice
    settings: Settings
    options: tuple[str, ...] = ()
    """Options of `elemental install`, passed on."""
    is_debug: bool = False

    def describe(self) -> list[str]:
        """Return what will be done, a line each: pure."""
        choice, login = self.choice, self.settings.login
        lines = [f"system: {choice.system.describe()}, which is erased"]
        if choice.data_on_system:
            lines.append("/data: the rest of that disk")
        elif choice.data is None:
            lines.append("/data: none yet; `mkfs.ext4 -L DATA DISK` makes it on another disk")
        elif choice.formats_data:
            lines.append(f"/data: {choice.data.describe()}, which is erased")
        else:
            lines.append(f"/data: {choice.data.describe()}, which is kept")
        keys = f"{len(login.keys)} ssh key{'' if len(login.keys) == 1 else 's'}"
        password = "a password on the console" if login.password_hash else "no password"
        lines.append(f"root: {keys}, {password}")
        lines.append(f"host name: {self.settings.hostname or 'by DHCP'}")
        if self.settings.config:
            lines.append(f"/data/config: {', '.join(sorted(self.settings.config))}")
        return lines


def elemental_argv(program: Path, work: Path, installation: Installation) -> list[str]:
    """Return the command line of Elemental's installer: pure."""
    return [
        str(program),
        *(["--debug"] if installation.is_debug else []),
        "--config-dir", str(work / "elemental"),
        "install",
        # A hook that fails, such as that which copies the settings, must end the installation.
        "--strict",
        *installation.options,
        installation.choice.system.path,
    ]  # fmt: skip


def elemental_settings(choice: Choice) -> dict[str, object]:
    """Return what is said to Elemental beside the image's own settings: pure."""
    if not choice.data_on_system:
        return {}
    # Size 0: what is left of the disk.
    data = {"name": "data", "label": DATA_LABEL, "fs": "ext4", "size": 0}
    return {"install": {"extra-partitions": [data]}}


async def run_installation(installation: Installation, paths: NodePaths) -> None:
    """Install the node. Everything that can be checked was checked before.

    Raises:
        NodeError: a step failed; the disks that it names hold no node. Or another installation
            runs, such as that by a seed; then nothing was changed.
    """
    choice = installation.choice
    work = paths.run / "install"
    settings = installation.settings
    async with system_lock(paths):
        try:
            await asyncio.to_thread(_prepare, choice, settings, paths, work)
            if choice.formats_data:
                assert choice.data is not None
                await asyncio.to_thread(format_data, choice.data.path)
            await _run_elemental(elemental_argv(paths.elemental, work, installation))
        finally:
            # It holds secrets.
            await asyncio.to_thread(remove_tree, work)


def _prepare(choice: Choice, settings: Settings, paths: NodePaths, work: Path) -> None:
    """Write what Elemental and its hook read."""
    key = ""
    if choice.data is not None:
        key = disk_key(choice.data)
    elif choice.data_on_system:
        key = disk_key(choice.system)
    files = oem_files(settings)
    if key:
        files["qemu-node/data-disk"] = f"{key}\n".encode()
    write_files(work / "oem", files)
    own = work / "elemental"
    try:
        shutil.copytree(paths.root / "etc/elemental", own, symlinks=True)
        (own / "config.d").mkdir(exist_ok=True)
    except OSError as exc:
        raise host_error("copy", paths.root / "etc/elemental", exc) from exc
    added = elemental_settings(choice)
    if added:
        # JSON is YAML.
        write_atomic(own / "config.d/95-installation.yaml", json.dumps(added).encode())


def format_data(path: str) -> None:
    """Make a file system DATA on a disk or partition, as `mkfs.ext4 -L DATA` by hand does.

    Raises:
        NodeError: a tool failed.
    """
    run_blocking(["wipefs", "--all", path], timeout_s=_MKFS_S)
    run_blocking(["mkfs.ext4", "-q", "-F", "-L", DATA_LABEL, path], timeout_s=_MKFS_S)


async def _run_elemental(argv: Sequence[str]) -> None:
    """Run the installer on our terminal until it ends; it takes minutes.

    Raises:
        HostError: it failed; it no longer runs.
    """
    env = {**SAFE_ENV, "HOME": "/root"}
    env |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    child = spawn(argv, stderr_fd=2, stdout_fd=1, env=env)
    try:
        with Hold(child.process) as hold:
            await hold.wait_gone()
    except asyncio.CancelledError:
        child.kill_group()
        raise
    status = child.exit_status()
    if status != 0:
        reason = describe_exit(status) if status is not None else "was lost"
        raise HostError(
            f"elemental install {reason}: the disk holds no system that boots",
            hint="its messages above say why; then install again with --wipe",
        )
