"""Resetting a VM's guest, as the reset button of a machine does.

Owns when that is refused. Does not own the end of a VM (`vm.record.outcome`).
"""

from qemu_node.errors import NodeError
from qemu_node.inventory.access import connect_monitor
from qemu_node.qmp import commands
from qemu_node.qmp.events import RunState, StatusInfo
from qemu_node.vm.record.outcome import guest_end_of_status
from qemu_node.vm.record.record import VMRecord


async def reset_guest(record: VMRecord) -> None:
    """Reset the guest of a VM that runs; its QEMU, its disk and its network stay.

    Raises:
        NodeError: the guest has ended or is paused; nothing was changed.
        QmpError: QEMU gave no answer; the guest may have been reset.
    """
    async with await connect_monitor(record) as qmp:
        refused = refusal(await commands.query_status(qmp), record.vm_id)
        if refused is not None:
            raise refused
        await commands.system_reset(qmp)


def refusal(status: StatusInfo, vm_id: str) -> NodeError | None:
    """Return why a guest in this state is not reset; None for one that runs: pure.

    A reset takes QEMU out of every other state, into `prelaunch` (system/runstate.c,
    main_loop_should_exit): an end that no driver has read yet would be lost, and a guest that waits
    for disk space would never go on.
    """
    if status.status is RunState.RUNNING:
        return None
    end = guest_end_of_status(status)
    if end is not None:
        return NodeError(
            f"{vm_id} has ended: {end.reason or 'the guest powered off'}; a reset would lose that",
            hint="its driver reports the end, and Nomad starts the task again as its restart block "
            f"says; without a driver, `qemu-node vm stop --now {vm_id}` removes its QEMU",
        )
    if status.status is RunState.IO_ERROR:
        return NodeError(
            f"{vm_id} is paused until the node's disk has room",
            hint="free space, and it goes on by itself; `qemu-node image gc` removes images",
        )
    return NodeError(
        f"{vm_id} does not run: QEMU says {status.status}",
        hint=f"`qemu-node vm stop {vm_id}` ends it",
    )
