"""A VM's start: the order of its steps.

Owns what happens between a request and a guest that runs. Does not own the steps (`startsteps`). A
start that fails or is cancelled leaves no process, file, socket or user id. A driver killed in the
middle leaves what `reconcile` and the next start of the task remove.
"""

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from qemu_node.host.concurrency.cancellation import Undo
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.space import require_free
from qemu_node.host.process.command import Child
from qemu_node.host.process.identity import boot_id
from qemu_node.qemu.args import check_args
from qemu_node.qemu.firmware import find_firmware
from qemu_node.qemu.overhead import guest_memory_bytes
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.admission import Admission
from qemu_node.vm.node import Node, Tell
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory
from qemu_node.vm.record.record import VMState
from qemu_node.vm.start.request import VMRequest
from qemu_node.vm.start.steps import Start
from qemu_node.vm.start.vmspec import Checked, vm_record, vm_spec

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Launched:
    """A VM that runs, with what its manager now holds."""

    state: VMState
    directory: VMDirectory
    lock: DirectoryLock
    child: Child
    qmp: QmpConnection


async def launch(
    request: VMRequest,
    node: Node,
    *,
    tell: Tell,
    admission: Admission,
    on_long_wait: Callable[[], None] = lambda: None,
) -> Launched:
    """Start the VM that `request` describes and return once QMP says that it runs.

    `on_long_wait` is called where the image takes long.

    Raises:
        NodeError: a step failed; everything that was made has been removed again.
    """
    checked = await _check(request, node, admission)
    async with Undo() as undo, AsyncExitStack() as turn:
        start = Start(request, node, tell, undo)
        lock = await start.claim()
        image, base = await start.take_image(on_long_wait)
        # After the image: nobody waits for another VM's download.
        await turn.enter_async_context(admission.turn(request.nics))
        uid = await start.lease_user()
        await start.write_overlay(image, base)
        pflash = await start.copy_varstore(checked.firmware)
        drive = await start.write_config_drive()
        listeners = start.listen()
        ports = await start.attach()
        spec = vm_spec(
            request,
            checked,
            start.directory,
            base=base,
            pflash=pflash,
            hostname=drive.hostname,
            taps=ports.taps,
            sockets=listeners.fds,
        )
        scope = start.limit()
        oom_kills = 0 if scope is None else scope.oom_kills()
        child = await start.spawn(spec, checked.hypervisor, listeners, ports, scope)
        # A QEMU that takes long to greet holds up no other start.
        await turn.aclose()
        qmp = await start.greet(child)
        record = vm_record(
            request,
            spec,
            start.directory,
            child.process,
            image=image.origin,
            hostname=drive.hostname,
        )
        state = VMState(
            vm_id=record.vm_id,
            task_id=request.identity.task_id,
            boot_id=boot_id(),
            data_dir=str(start.directory.data),
            run_dir=str(start.directory.run),
            record=record,
            uid=uid,
            scope=None if scope is None else str(scope.path),
            oom_kills=oom_kills,
            health=request.health,
            has_log=request.has_log,
        )
        await start.publish(state)
        # QEMU has its own copy of the descriptor.
        image.close()
    return Launched(state=state, directory=start.directory, lock=lock, child=child, qmp=qmp)


async def _check(request: VMRequest, node: Node, admission: Admission) -> Checked:
    """Return what the node has for the VM. Needs no undo: most mistakes of a job are found here.

    Raises:
        NodeError: the VM cannot start here, or not now.
    """
    hypervisor = await node.hypervisor()
    args = check_args(request.args, node.qemu.allow_args)
    ram_bytes = guest_memory_bytes(
        request.memory_bytes,
        accelerator=hypervisor.accelerator,
        vcpus=request.vcpus,
        firmware=request.firmware,
    )
    firmware = find_firmware(request.firmware, node.firmware_dirs)
    await to_the_end(
        require_free, node.paths.vm_data_dir, 0, node.disk_reserve, node.keeper.make_room
    )
    admission.check(request.nics)
    return Checked(hypervisor=hypervisor, firmware=firmware, args=args, ram_bytes=ram_bytes)
