"""Finding out what `checks` judges: small reads of the host, and one short guest.

Owns the order of the checks. Changes nothing but the driver's record of whether guests run here;
the short guest has ended before its check is printed.
"""

import asyncio
import os
import pwd
import resource
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from qemu_node.cli.doctor import checks
from qemu_node.cli.doctor.agentchecks import judge_agent
from qemu_node.cli.doctor.agentfacts import read_agent
from qemu_node.cli.doctor.checks import Check, DirectoryFacts, KsmFacts, Leftovers, UidRange
from qemu_node.cli.doctor.consolecheck import judge_console, read_console
from qemu_node.cli.doctor.netchecks import judge_network
from qemu_node.cli.doctor.netfacts import read_network
from qemu_node.config import node as node_config
from qemu_node.config.node import NodeConfig, Paths, QemuConfig
from qemu_node.errors import ConfigError, HostError, NodeError
from qemu_node.host.files.directories import closed_directory
from qemu_node.host.files.lock import held_locks, is_locked
from qemu_node.host.files.space import DiskSpace, read_space
from qemu_node.host.limits import read_open_files_limit
from qemu_node.host.process.command import SAFE_ENV
from qemu_node.host.process.users import claimed_users, group_id
from qemu_node.images.cache import check_settings
from qemu_node.images.source.credentials import secret_problems
from qemu_node.nomad.plugin.handshake import lock_path, plugins_dir
from qemu_node.qemu.accel.proof import KVM_DEVICE
from qemu_node.qemu.accel.qemubinary import QemuBinary, find_qemu
from qemu_node.qemu.firmware import Firmware, find_firmware
from qemu_node.qemu.spec import FirmwareMode
from qemu_node.vm.hypervisor import Hypervisor, HypervisorFinder
from qemu_node.vm.reconcile import examine as examine_vm
from qemu_node.vm.reconcile import is_left_over
from qemu_node.vm.record.directory import VMDirectory, visible_vm_ids
from qemu_node.vm.record.processes import running_vm_ids


async def examine(config_path: Path | None) -> AsyncIterator[Check]:
    """Yield a check for each thing that the node needs, once it is known; the slow one is last."""
    is_root = os.geteuid() == 0
    yield checks.check_python(sys.version_info[:3])
    yield checks.check_user(pwd.getpwuid(os.geteuid()).pw_name, is_root=is_root)
    config, check = read_config(config_path)
    yield check
    if config.images.credentials:
        problems = await asyncio.to_thread(secret_problems, config.images.credentials)
        yield checks.check_secrets(problems)
    for check in check_directories(config):
        yield check
    qemu = await look_for_qemu(config.qemu.binary)
    yield checks.check_qemu(qemu)
    dirs = config.qemu.firmware_paths
    for mode in FirmwareMode:
        yield checks.check_firmware(mode, look_for_firmware(mode, dirs), dirs)
    for check in check_host(config.qemu, config.paths, is_root=is_root):
        yield check
    yield look_at_open_files(config.paths)
    network = await asyncio.to_thread(read_network, config.network)
    for check in judge_network(config.network, network, is_root=is_root):
        yield check
    for check in judge_agent(await read_agent(os.environ.get("NOMAD") or "nomad")):
        yield check
    for check in judge_console(await asyncio.to_thread(read_console, config)):
        yield check
    yield await asyncio.to_thread(look_for_leftovers, config.paths)
    found = await prove(config, is_root=is_root) if isinstance(qemu, QemuBinary) else None
    yield checks.check_accelerator(config.qemu.accelerator, found, is_kvm_there=KVM_DEVICE.exists())


def read_config(path: Path | None) -> tuple[NodeConfig, Check]:
    """Return the settings, the defaults where they are wrong, and the check of node.toml."""
    chosen = path or node_config.default_path()
    try:
        config = node_config.load(path)
        check_settings(config.images)
    except ConfigError as exc:
        return NodeConfig(), checks.check_config(chosen, exists=True, problem=exc)
    return config, checks.check_config(chosen, exists=chosen.exists(), problem=None)


def check_directories(config: NodeConfig) -> list[Check]:
    """Look at where the node writes."""
    paths = config.paths
    earlier = node_config.find_earlier_data(paths)
    return [
        checks.check_data_dir(
            look_at_directory(Path(paths.data)), config.disk.reserved, paths.data_advice
        ),
        *([checks.warn("old paths", earlier, None)] if earlier else []),
        checks.check_run_dir(look_at_directory(paths.run_dir), paths.run_advice),
        checks.check_sockets(paths.vm_run_dir),
    ]


def check_host(qemu: QemuConfig, paths: Paths, *, is_root: bool) -> list[Check]:
    """Look at what kernel and distribution give."""
    return [
        checks.check_program("setpriv", shutil.which("setpriv", path=SAFE_ENV["PATH"])),
        checks.check_program("qemu-img", shutil.which("qemu-img", path=SAFE_ENV["PATH"])),
        checks.check_cgroup(read_controllers(), is_root=is_root),
        checks.check_ksm(read_ksm(), is_wanted=qemu.merge),
        checks.check_group(group_id("qemu-node"), is_root=is_root),
        checks.check_uids(
            qemu.first_uid,
            qemu.uid_count,
            taken_uids() + uids_of_others(paths.vm_data_dir),
            is_root=is_root,
        ),
    ]


def look_at_open_files(paths: Paths) -> Check:
    """Look at the limit of the driver that runs here, else at what one started by us would get."""
    # A driver makes its socket before its agent sends it the path of node.toml.
    run_dirs = {paths.run_dir, node_config.default_paths().run_dir}
    limits = [read_open_files_limit(pid) for path in run_dirs for pid in _driver_pids(path)]
    known = [limit for limit in limits if limit is not None]
    if known:
        return checks.check_open_files(min(known), is_driver=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return checks.check_open_files(hard, is_driver=False)


def _driver_pids(run_dir: Path) -> list[int]:
    """Return the drivers that serve below `run_dir`; none where we may not look."""
    try:
        plugins = [path for path in plugins_dir(run_dir).iterdir() if path.name.isdecimal()]
    except OSError:
        return []
    # One that was killed has left its directory, and its pid may be another's by now.
    locks = held_locks()
    return [int(path.name) for path in plugins if is_locked(lock_path(path), locks)]


def look_at_directory(path: Path) -> DirectoryFacts:
    """Return whether `path` can be written, or made where it is missing."""
    exists = path.is_dir()
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    is_writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return DirectoryFacts(
        path=path,
        exists=exists,
        is_writable=is_writable,
        space=_space(place) if is_writable else None,
        closed=closed_directory(path / "vm") if os.geteuid() == 0 else None,
    )


def _space(path: Path) -> DiskSpace | None:
    try:
        return read_space(path)
    except HostError:
        return None


def read_controllers(root: Path = Path("/sys/fs/cgroup")) -> list[str] | None:
    """Return the controllers of cgroup v2, None where it is not mounted."""
    try:
        return (root / "cgroup.controllers").read_text().split()
    except OSError:
        return None


def read_ksm(root: Path = Path("/sys/kernel/mm/ksm")) -> KsmFacts | None:
    """Return what the kernel merges, None where it cannot."""
    try:
        return KsmFacts(
            is_running=(root / "run").read_text().strip() == "1",
            pages_to_scan=int((root / "pages_to_scan").read_text()),
            sleep_millisecs=int((root / "sleep_millisecs").read_text()),
        )
    except (OSError, ValueError):
        return None


def taken_uids(subuid: Path = Path("/etc/subuid")) -> list[UidRange]:
    """Return the user ids of this host's users, and those lent to their containers."""
    taken = [UidRange(owner=user.pw_name, first=user.pw_uid) for user in pwd.getpwall()]
    try:
        text = subuid.read_text()
    except OSError:
        return taken
    return taken + parse_subuid(text)


def parse_subuid(text: str) -> list[UidRange]:
    """Return the ranges in /etc/subuid (man 5 subuid); other lines are skipped."""
    fields = [line.split(":") for line in text.splitlines()]
    return [
        UidRange(owner=f"{owner} in /etc/subuid", first=int(first), count=int(count))
        for owner, first, count in (parts for parts in fields if len(parts) == 3)
        if first.isdigit() and count.strip().isdigit()
    ]


def uids_of_others(vm_data_dir: Path) -> list[UidRange]:
    """Return the user ids that VMs of other nodes on this machine have, with whose they are."""
    return [
        UidRange(owner=f"VM {holder}", first=uid)
        for uid, holder in claimed_users().items()
        if holder.parent != vm_data_dir
    ]


def look_for_leftovers(paths: Paths) -> Check:
    """Look for what no driver holds."""
    try:
        return checks.check_leftovers(find_leftovers(paths))
    except HostError as exc:
        return checks.warn("left-overs", str(exc), "run this as root")


def find_leftovers(paths: Paths) -> Leftovers:
    """Return what no driver holds, judged by the driver's own rule."""
    removable: list[str] = []
    unmanaged: list[str] = []
    unreadable: list[str] = []
    locks = held_locks()
    running = running_vm_ids(paths.vm_data_dir)
    for vm_id in visible_vm_ids(paths) | running:
        directory = VMDirectory.of(paths, vm_id)
        if is_locked(directory.data, locks) is not False:
            continue
        found = examine_vm(directory, is_running=vm_id in running, unmanaged_s=0.0)
        if is_left_over(found):
            removable.append(vm_id)
        elif found.is_running:
            (unmanaged if found.unreadable is None else unreadable).append(vm_id)
    return Leftovers(removable=removable, unmanaged=unmanaged, unreadable=unreadable)


def look_for_firmware(mode: FirmwareMode, dirs: Sequence[Path]) -> Firmware | NodeError | None:
    """Return the firmware of a mode, or why there is none; None for BIOS."""
    try:
        return find_firmware(mode, dirs)
    except NodeError as exc:
        return exc


async def look_for_qemu(binary: str) -> QemuBinary | NodeError:
    """Return the QEMU that VMs would use, or why there is none."""
    try:
        return await find_qemu(binary)
    except NodeError as exc:
        return exc


async def prove(config: NodeConfig, *, is_root: bool) -> Hypervisor | NodeError:
    """Return what guests run under here, having seen one run, or why none does.

    Asked as the driver asks, and remembered for it: the answer of either serves both.
    """
    finder = HypervisorFinder(
        config.qemu,
        config.paths,
        is_root=is_root,
        kvm_gid=group_id("kvm") if is_root else None,
    )
    try:
        return await finder.look()
    except NodeError as exc:
        return exc
