"""Which VMs there are on this node, and one of them in detail.

Owns what is shown of vm.json. Its paths on the host and its sockets are nobody's business here.
"""

from collections.abc import Iterable

import msgspec

from qemu_node.errors import QmpError, VMNotFoundError
from qemu_node.inventory.access import forwarded_ports
from qemu_node.qmp import commands
from qemu_node.text import printable
from qemu_node.vm.record.record import NicRecord, VMRecord
from qemu_node.web.access.acl.rights import Right
from qemu_node.web.fleet.fleet import Fleet
from qemu_node.web.fleet.model import VMView
from qemu_node.web.frame.route import VM_PATH, Call, Route
from qemu_node.web.http.problems import Problem

_OF_VMS = (Right.VIEW, Right.CONTROL, Right.AGENT_EXEC, Right.POWER)


class VMList(msgspec.Struct, frozen=True, kw_only=True):
    """The VMs of this node that you may see, by namespace, job, group, index and task."""

    vms: list[VMView]


class NicView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A network interface, as the node set it up."""

    mode: str
    """`user`, or `vlan` for a port of the node's bridge."""
    mac: str
    vlan: int | None = None
    trunk: tuple[int, ...] = ()
    port: str = ""
    """Its port of the bridge."""
    isolated: bool = False
    strict: bool = False
    mtu: int | None = None
    rate_mbit: int | None = None
    networks: tuple[str, ...] = ()
    """What the guest's addresses must be in; none: any."""
    forwards: tuple[str, ...] = ()

    @classmethod
    def of(cls, nic: NicRecord) -> "NicView":
        """Return what is shown of one."""
        return cls(
            mode=nic.mode,
            mac=nic.mac,
            vlan=nic.vlan,
            trunk=nic.trunk,
            port=nic.ifname or "",
            isolated=nic.isolated,
            strict=nic.strict,
            mtu=nic.mtu,
            rate_mbit=nic.rate_mbit,
            networks=nic.addresses,
            forwards=forwarded_ports([nic]),
        )


class QemuView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The VM's QEMU."""

    pid: int
    version: str = ""
    accelerator: str
    run_state: str = ""
    """In QEMU's words."""
    has_own_monitor: bool = True
    """Whether its events are heard. A VM that an older driver has started has no monitor for the
    console, and is asked from time to time."""
    problem: str = ""
    """Why QEMU cannot be asked."""


class VMDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is known of a VM."""

    vm: VMView
    rights: list[str]
    """What you may do with it."""
    uuid: str = ""
    hostname: str = ""
    """What its config drive gives it."""
    firmware: str = ""
    merge: bool = False
    watchdog: bool = False
    nics: list[NicView] = []
    qemu: QemuView | None = None
    """None: it has ended."""


class VMRoutes:
    """The handlers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def routes(self) -> Iterable[Route]:
        """Return the table."""
        return (
            Route(
                method="GET",
                path="/api/v1/vms",
                right=Right.SEE,
                handler=self._list,
                summary="List the VMs of this node.",
                answer=VMList,
            ),
            Route(
                method="GET",
                path=VM_PATH,
                right=Right.SEE,
                handler=self._show,
                summary="Say all that is known of a VM.",
                answer=VMDetails,
            ),
        )

    async def _list(self, call: Call) -> VMList:
        return VMList(vms=call.the_grant.visible(self._fleet.all()))

    async def _show(self, call: Call) -> VMDetails:
        vm, grant = call.the_vm, call.the_grant
        rights = [right.value for right in _OF_VMS if grant.allows(right, vm)]
        try:
            record = self._fleet.record(vm.vm_id)
        except VMNotFoundError:
            return VMDetails(vm=vm, rights=rights)
        return VMDetails(
            vm=vm,
            rights=rights,
            uuid=record.uuid,
            hostname=printable(record.hostname),
            firmware=record.hardware.firmware.value,
            merge=record.hardware.merge,
            watchdog=record.hardware.watchdog,
            nics=[NicView.of(nic) for nic in record.nics],
            qemu=await self._ask_qemu(record),
        )

    async def _ask_qemu(self, record: VMRecord) -> QemuView:
        view = QemuView(
            pid=record.pid,
            accelerator=record.accelerator.value,
            has_own_monitor=record.sockets.console is not None,
        )
        try:
            async with self._fleet.monitor(record.vm_id) as qmp:
                status = await commands.query_status(qmp, timeout_s=2.0)
                version = await commands.query_version(qmp)
        except (QmpError, VMNotFoundError) as exc:
            return msgspec.structs.replace(view, problem=str(exc))
        number = f"{version.major}.{version.minor}.{version.micro}"
        return msgspec.structs.replace(view, version=number, run_state=status.status.value)


def live_record(fleet: Fleet, vm: VMView) -> VMRecord:
    """Return the record of a VM that runs.

    Raises:
        Problem: it has ended.
    """
    try:
        return fleet.record(vm.vm_id)
    except VMNotFoundError as exc:
        hint = None if vm.end is None else vm.end.reason
        raise Problem(409, "ended", f"VM {vm.vm_id} has ended", hint=hint) from exc
