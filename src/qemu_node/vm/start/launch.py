"""A VM's start: the order of its steps.

Owns what happens between a request and a guest that runs. Does not own the steps (`steps`,
`vmfiles`, `qemuprocess`). A start that fails or is cancelled leaves no process, file, socket or
user id. A driver killed in the middle leaves what `reconcile` and the next start of the task
remove.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from qemu_node.host.concurrency.cancellation import Undo
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.files.space import require_free
from qemu_node.host.process.command import Child
from qemu_node.qemu.args import check_args
from qemu_node.qemu.firmware import find_firmware
from qemu_node.qemu.overhead import guest_memory_bytes
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.admission import Admission
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory
from qemu_node.vm.record.record import VMState
from qemu_node.vm.services import NodeServices, Tell
from qemu_node.vm.start.qemuprocess import Inherited, attach, connect, limit, listen, publish, spawn
from qemu_node.vm.start.request import VMRequest
from qemu_node.vm.start.steps import Start, StartStep, claim_directory, lease_user
from qemu_node.vm.start.vmfiles import copy_varstore, make_disk, take_image, write_config_drive
from qemu_node.vm.start.vmspec import Checked, vm_spec, vm_state


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
    node: NodeServices,
    *,
    tell: Tell,
    admission: Admission,
    on_long_wait: Callable[[], None] = lambda: None,
    on_step: Callable[[StartStep], object] = lambda _: None,
) -> Launched:
    """Start the VM that `request` describes and return once QMP says that it runs.

    `on_long_wait` is called where the image takes long, `on_step` at the begin of each step.

    Raises:
        NodeError: a step failed; everything that was made has been removed again.
    """
    config, shared_gid = node.config, node.rights.shared_gid
    checked = await _check(request, node, admission)
    async with Undo() as undo, AsyncExitStack() as turn:
        start = Start(request=request, tell=tell, undo=undo, on_step=on_step)
        directory = await claim_directory(start, config.paths, node.network)
        taken = await take_image(
            start, directory, node.images, config.images.pull_timeout_s, on_long_wait
        )
        # After the image: nobody waits for another VM's download.
        await turn.enter_async_context(admission.turn(request.nics))
        user = await lease_user(start, directory, config, node.rights)
        disk = await make_disk(start, directory, taken, user)
        pflash = await copy_varstore(start, directory, user, checked.firmware)
        drive = await write_config_drive(start, directory, user)
        listeners = listen(start, directory, user, shared_gid)
        ports = await attach(start, directory, node.network)
        spec = vm_spec(
            request,
            checked,
            directory.files,
            base=disk.base,
            pflash=pflash,
            hostname=drive.hostname,
            taps=ports.taps,
            sockets=listeners.fds,
        )
        cgroup = limit(start)
        inherited = Inherited(user=user, disk=disk, listeners=listeners, ports=ports, cgroup=cgroup)
        child = await spawn(start, directory, spec, checked.hypervisor, inherited)
        # A QEMU that takes long to greet holds up no other start.
        await turn.aclose()
        qmp = await connect(start, directory, child, shared_gid)
        state = vm_state(
            request,
            spec,
            directory.files,
            child.process,
            uid=user.uid,
            scope=cgroup.scope,
            oom_kills=cgroup.oom_kills,
            image=taken.image.origin,
            hostname=drive.hostname,
        )
        await publish(start, directory, state)
        # QEMU has its own copy of the descriptor.
        taken.image.close()
    return Launched(
        state=state, directory=directory.files, lock=directory.lock, child=child, qmp=qmp
    )


async def _check(request: VMRequest, node: NodeServices, admission: Admission) -> Checked:
    """Return what the node has for the VM. Needs no undo: most mistakes of a job are found here."""
    hypervisor = await node.hypervisor()
    args = check_args(request.args, node.config.qemu.allow_args)
    ram_bytes = guest_memory_bytes(
        request.memory_bytes,
        accelerator=hypervisor.accelerator,
        vcpus=request.hardware.vcpus,
        firmware=request.hardware.firmware,
    )
    firmware = find_firmware(request.hardware.firmware, node.config.qemu.firmware_paths)
    await to_the_end(
        require_free,
        node.config.paths.vm_data_dir,
        0,
        node.config.disk.reserved,
        node.keeper.make_room,
    )
    admission.check(request.nics)
    return Checked(hypervisor=hypervisor, firmware=firmware, args=args, ram_bytes=ram_bytes)
