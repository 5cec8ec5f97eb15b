"""The VMs of this node as anyone on it may see them: vm.json files, read.

Owns finding and naming them. Does not own managing them; the command line and the daemon use this.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from qemu_node.config.node import Paths
from qemu_node.errors import AS_ROOT, VMNotFoundError
from qemu_node.host.process.identity import is_alive
from qemu_node.text import nearest
from qemu_node.vm.record.directory import VMDirectory, visible_vm_ids
from qemu_node.vm.record.record import StateError, VMRecord, read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedVM:
    """A published VM and whether its process runs."""

    record: VMRecord
    is_running: bool


def list_vms(paths: Paths) -> list[ListedVM]:
    """Return the published VMs, ordered by name; damaged records are passed over.

    Raises:
        HostError: they cannot be listed.
    """
    listed = []
    for vm_id in visible_vm_ids(paths):
        with contextlib.suppress(StateError):
            record = read_record(VMDirectory.of(paths, vm_id).vm_json)
            listed.append(ListedVM(record=record, is_running=is_alive(record.process)))
    return sorted(listed, key=lambda vm: (vm.record.display_name, vm.record.vm_id))


def find_vm(paths: Paths, name: str) -> ListedVM:
    """Return the VM that `name` means.

    That is, in this order: a vm_id or display name, the beginning of a vm_id, the beginning of an
    allocation id, what `qemu-node run` calls it (`group[index]` or `group[index]/task`), a task's
    name.

    Raises:
        VMNotFoundError: none matches, or several do; the message lists them.
    """
    vms = list_vms(paths)
    for matches in (
        [vm for vm in vms if name in (vm.record.vm_id, vm.record.display_name)],
        [vm for vm in vms if vm.record.vm_id.startswith(name)],
        [vm for vm in vms if len(name) >= 4 and vm.record.identity.alloc_id.startswith(name)],
        [vm for vm in vms if name in _short_names(vm.record)],
        [vm for vm in vms if vm.record.identity.task == name],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            choices = ", ".join(vm.record.vm_id for vm in matches)
            raise VMNotFoundError(f"{name!r} means more than one VM: {choices}")
    raise VMNotFoundError(f"no VM {name!r} on this node", hint=_hint(vms, name, paths))


def _short_names(record: VMRecord) -> tuple[str, str]:
    identity = record.identity
    group = identity.group if identity.index is None else f"{identity.group}[{identity.index}]"
    return group, f"{group}/{identity.task}"


def _hint(vms: Sequence[ListedVM], name: str, paths: Paths) -> str:
    """Return what to type for a VM that was not found."""
    records = [vm.record for vm in vms]
    if not records and os.geteuid() == 0:
        return f"no VM runs under {paths.vm_run_dir}: `qemu-node run JOB` starts one"
    if not records:
        return f"you have none under {paths.vm_run_dir}; for the VMs of root's driver, {AS_ROOT}"
    names = (
        n for r in records for n in (r.vm_id, r.display_name, *_short_names(r), r.identity.task)
    )
    near = nearest(name, names)
    meant = f"did you mean {near}? " if near else ""
    return f"{meant}`qemu-node vm list` shows all"
