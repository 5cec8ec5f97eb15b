"""The processes of this node's VMs, found without what drivers write down about VMs.

Owns telling them from all other processes. As root each VM has a user of its own: a process is a
VM's by its user. Without root it is a process of our own user whose command line names the VM's
directory. Does not own ending them (`removal`). Looks at every process of the host: not for the
event loop.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from qemu_node.host.process.identity import EXEC_MAX_S, ProcessId, command_line, identify
from qemu_node.host.process.users import processes_of_users
from qemu_node.vm.names import VM_ID
from qemu_node.vm.record.leases import is_launching, live_leases


def find_vm_processes(vm_data_dir: Path) -> list[tuple[str, ProcessId]]:
    """Return every process that runs a VM with its files below `vm_data_dir`, with the VM's id."""
    if os.geteuid() == 0:
        leases = live_leases(vm_data_dir)
        return [(leases[uid], process) for uid, process in processes_of_users(leases)]
    return list(_own_processes(vm_data_dir))


def running_vm_ids(vm_data_dir: Path) -> set[str]:
    """Return the VMs of which a process runs or, as root, is still on its way to the VM's user."""
    running = {vm_id for vm_id, _ in find_vm_processes(vm_data_dir)}
    if os.geteuid() == 0:
        leases = live_leases(vm_data_dir)
        running |= {
            vm_id for uid, vm_id in leases.items() if is_launching(vm_data_dir / vm_id, uid)
        }
    return running


def _own_processes(vm_data_dir: Path) -> Iterator[tuple[str, ProcessId]]:
    # For all of them: a process may look for ever as if it were in the middle of an exec.
    deadline = time.monotonic() + EXEC_MAX_S
    for _, process in processes_of_users((os.geteuid(),)):
        argv = command_line(process.pid, max(deadline - time.monotonic(), 0.0))
        vm_id = match_vm_id(argv, vm_data_dir)
        # Asked again: the pid may have passed to another process between the two readings.
        if vm_id is not None and identify(process.pid) == process:
            yield vm_id, process


def match_vm_id(argv: Sequence[str], vm_data_dir: Path) -> str | None:
    """Return the id of the VM that a process with this argv runs, None if it runs none of ours.

    It must name its guest, and have a file in exactly the directory of that guest. A launcher that
    has yet to become QEMU has the same arguments and counts.
    """
    for option, value in pairwise(argv):
        if option != "-name" or not value.startswith("guest="):
            continue
        vm_id = value.removeprefix("guest=").partition(",")[0]
        directory = vm_data_dir / vm_id
        if VM_ID.fullmatch(vm_id) and any(Path(path).parent == directory for path in _paths(argv)):
            return vm_id
    return None


def _paths(argv: Sequence[str]) -> Iterator[str]:
    """Yield the file names in the options that `build_argv` writes as JSON."""
    for arg in argv:
        if arg.startswith("{"):
            try:
                options = json.loads(arg)
            except (ValueError, RecursionError):
                continue
            yield from _file_names(options)


def _file_names(options: object) -> Iterator[str]:
    if isinstance(options, dict):
        for key, value in options.items():
            if key == "filename" and isinstance(value, str):
                yield value
            else:
                yield from _file_names(value)
