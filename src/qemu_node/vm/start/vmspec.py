"""What QEMU is told of a VM, and what is written down about it: pure.

Owns how a request becomes a `VMSpec` and a `VMState`, each option once. Does not own the steps that
make what is named there (`steps`), nor how QEMU is told (`qemu.cmdline`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from qemu_node.host.cgroup import Scope
from qemu_node.host.process.identity import ProcessId, boot_id
from qemu_node.net.port.tap import Tap
from qemu_node.net.portspec import PortSpec, UserPort
from qemu_node.qemu.firmware import Firmware
from qemu_node.qemu.spec import (
    BaseImage,
    PflashFirmware,
    SocketFds,
    TapNic,
    UserNic,
    VMSpec,
)
from qemu_node.vm.hypervisor import Hypervisor
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.record import NicRecord, VMRecord, VMState
from qemu_node.vm.start.request import VMRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a start finds out before it makes anything."""

    hypervisor: Hypervisor
    firmware: Firmware | None
    """None: SeaBIOS."""
    args: tuple[str, ...]
    """The job's raw options, as the operator allows them."""
    ram_bytes: int
    """Guest RAM: the task's memory less QEMU's own."""


def vm_spec(
    request: VMRequest,
    checked: Checked,
    directory: VMDirectory,
    *,
    base: BaseImage,
    pflash: PflashFirmware | None,
    hostname: str,
    taps: Sequence[Tap],
    sockets: SocketFds,
) -> VMSpec:
    """Return what QEMU is to be for `request`."""
    return VMSpec(
        vm_id=request.identity.vm_id,
        uuid=request.identity.uuid,
        hardware=request.hardware,
        accelerator=checked.hypervisor.accelerator,
        pflash=pflash,
        memory_bytes=checked.ram_bytes,
        overlay=directory.overlay,
        base=base,
        config_drive=directory.config_drive,
        nics=_qemu_nics(request, taps, hostname),
        sockets=sockets,
        vnc_socket=directory.socket("vnc"),
        serial_log=directory.serial_log,
        aio=checked.hypervisor.aio,
        args=checked.args,
    )


def vm_state(
    request: VMRequest,
    spec: VMSpec,
    directory: VMDirectory,
    process: ProcessId,
    *,
    uid: int | None,
    scope: Scope | None,
    oom_kills: int,
    image: str,
    hostname: str,
) -> VMState:
    """Return what is written down of a VM that runs now."""
    record = VMRecord(
        vm_id=spec.vm_id,
        pid=process.pid,
        start_time=process.start_time,
        nics=tuple(_nic_record(nic, request) for nic in request.nics),
        identity=request.identity,
        hardware=spec.hardware,
        accelerator=spec.accelerator,
        uuid=spec.uuid,
        hostname=hostname,
        image=image,
        memory_bytes=spec.memory_bytes,
        memory_min_bytes=request.memory_bytes,
        memory_max_bytes=request.memory_max_bytes,
        sockets=directory.socket_paths(),
        qga_lock=str(directory.qga_lock),
        allow_exec=request.allow_exec,
        alloc_dir=str(request.alloc_dir),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return VMState(
        vm_id=record.vm_id,
        task_id=request.task_id,
        boot_id=boot_id(),
        data_dir=str(directory.data),
        run_dir=str(directory.run),
        record=record,
        uid=uid,
        scope=None if scope is None else str(scope.path),
        oom_kills=oom_kills,
        health=request.health,
        has_log=request.has_log,
    )


def _qemu_nics(
    request: VMRequest, taps: Sequence[Tap], hostname: str
) -> tuple[UserNic | TapNic, ...]:
    left = iter(taps)
    return tuple(
        _tap_nic(nic, next(left))
        if isinstance(nic, PortSpec)
        else UserNic(mac=nic.mac, hostname=hostname, forwards=request.forwards)
        for nic in request.nics
    )


def _tap_nic(port: PortSpec, tap: Tap) -> TapNic:
    return TapNic(mac=port.mac, tap_fds=tap.fds, vhost_fds=tap.vhost_fds, mtu=port.mtu)


def _nic_record(nic: UserPort | PortSpec, request: VMRequest) -> NicRecord:
    if isinstance(nic, PortSpec):
        return NicRecord.of_port(nic)
    return NicRecord(mode="user", mac=nic.mac, forwards=request.forwards)
