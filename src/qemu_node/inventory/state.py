"""The state of each VM, from its files and its process: quick, and for anyone on the node.

Owns telling a managed VM from one whose driver is gone and from left-overs, and reading its use of
CPU and memory. Asks neither QEMU nor the guest, so a VM that hangs delays no list. Changes nothing.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from qemu_node.config.node import Paths
from qemu_node.host.files.lock import HeldLocks, held_locks, is_locked
from qemu_node.host.process.identity import ProcessId, age_s, cpu_times, is_alive
from qemu_node.vm.life.usage import DiskState, Usage, read_usage
from qemu_node.vm.record.directory import VMDirectory, visible_vm_ids
from qemu_node.vm.record.processes import find_vm_processes
from qemu_node.vm.record.record import StateError, VMRecord, read_record


class VMStatus(StrEnum):
    """What a VM is, seen from outside."""

    RUNNING = "running"
    DISK_FULL = "disk-full"
    """QEMU has paused it until the node's disk has room; its driver then lets it go on."""
    UNMANAGED = "unmanaged"
    """It runs, and no driver holds it: nobody would notice its end."""
    STARTING = "starting"
    """A driver prepares it."""
    ENDED = "ended"
    """Its process is gone; its files wait for the driver, or are being removed by it."""
    UNREADABLE = "unreadable"
    """What is written down of it cannot be read: damaged, or of a newer driver. It is removed only
    when it has ended."""
    ORPHAN = "orphan"
    """A process or files that belong to no published VM; the driver removes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VMSummary:
    """One VM of this node, published or not."""

    vm_id: str
    status: VMStatus
    record: VMRecord | None = None
    pid: int | None = None
    """Its QEMU, where that runs."""
    uptime_s: float | None = None
    cpu_pct: float | None = None
    """Of one core, over the last half minute or so."""
    pss_bytes: int | None = None
    """Host memory that it uses, as its driver last measured it."""
    drops: Mapping[str, int] = field(default_factory=dict)
    """Frames of its guest that were not let through, by reason, as its driver last read them."""
    disk: DiskState | None = None
    """What it waits for, as its driver last found."""
    usage: Usage | None = None
    """All that its driver last wrote down; None: nothing yet."""


def status_of(
    *,
    is_published: bool,
    is_running: bool,
    is_managed: bool | None,
    is_disk_full: bool = False,
    is_unreadable: bool = False,
) -> VMStatus:
    """Return what a VM is. `is_managed` None: not known, and treated as managed."""
    if is_unreadable:
        return VMStatus.UNREADABLE
    if is_published and is_running:
        if is_managed is False:
            return VMStatus.UNMANAGED
        return VMStatus.DISK_FULL if is_disk_full else VMStatus.RUNNING
    if is_published:
        return VMStatus.ENDED
    return VMStatus.ORPHAN if is_managed is False else VMStatus.STARTING


def list_summaries(paths: Paths) -> list[VMSummary]:
    """Return every VM of which a directory or a process exists, published ones first, by name."""
    processes = dict(find_vm_processes(paths.vm_data_dir))
    locks = held_locks()
    found = [
        _summarize(VMDirectory.of(paths, vm_id), processes.get(vm_id), locks)
        for vm_id in visible_vm_ids(paths) | processes.keys()
    ]
    return sorted(found, key=_order)


def summarize(paths: Paths, vm_id: str) -> VMSummary:
    """Return what is known of one VM."""
    return summarize_of(VMDirectory.of(paths, vm_id), held_locks())


def summarize_of(directory: VMDirectory, locks: HeldLocks) -> VMSummary:
    """Return the same for who looks at hundreds of VMs again and again: `locks` are held now."""
    return _summarize(directory, None, locks)


def _order(vm: VMSummary) -> tuple[bool, str, str]:
    return (vm.record is None, vm.record.display_name if vm.record else "", vm.vm_id)


def _summarize(
    directory: VMDirectory,
    process: ProcessId | None,
    locks: HeldLocks,
) -> VMSummary:
    record = None
    is_unreadable = False
    try:
        record = read_record(directory.vm_json)
    except StateError as exc:
        is_unreadable = not isinstance(exc.__cause__, FileNotFoundError)
    if record is not None:
        process = record.process if is_alive(record.process) else None
    usage = None if process is None else read_usage(directory.usage_json)
    disk = None if usage is None else usage.disk
    is_managed = is_locked(directory.data, locks)
    status = status_of(
        is_published=record is not None,
        is_running=process is not None,
        is_managed=is_managed,
        is_disk_full=disk is not None and disk.is_full,
        is_unreadable=is_unreadable or (is_managed is False and _has_unreadable_state(directory)),
    )
    if process is None:
        return VMSummary(vm_id=directory.vm_id, status=status, record=record)
    uptime_s = age_s(process)
    return VMSummary(
        vm_id=directory.vm_id,
        status=status,
        record=record,
        pid=process.pid,
        uptime_s=uptime_s,
        cpu_pct=_cpu_pct(process, usage, uptime_s),
        pss_bytes=None if usage is None else usage.pss_bytes or None,
        drops={} if usage is None else usage.drops,
        disk=disk,
        usage=usage,
    )


def _has_unreadable_state(directory: VMDirectory) -> bool:
    """Tell whether a driver could not take the VM up; False where only root could tell."""
    try:
        directory.read_state()
    except StateError as exc:
        return not isinstance(exc.__cause__, PermissionError)
    return False


def _cpu_pct(process: ProcessId, usage: Usage | None, uptime_s: float) -> float | None:
    """Return the use since the driver's last measurement, else over the whole life."""
    times = cpu_times(process)
    if times is None:
        return None
    used_s = times.user_s + times.system_s
    if usage is not None:
        span_s = time.time() - usage.measured_at
        since_s = used_s - usage.cpu_user_s - usage.cpu_system_s
        # Too short a span says nothing yet; a negative one means that the clock was changed.
        if span_s >= 1.0 and since_s >= 0.0:
            return 100 * since_s / span_s
    return 100 * used_s / uptime_s if uptime_s >= 1.0 else None
