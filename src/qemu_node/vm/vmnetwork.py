"""The node's network as its VMs use it: whose ports there are, and whose addresses.

Owns that no two VMs of the node have one MAC, and finding the ports of live VMs. Does not own how a
port is set up (`net.manager`) nor what a job may have (`net.policy`).

References are found: the ports in use are those of the VMs whose state.json is there and whose
process lives, and those that this process has attached and not detached yet. The same is true of
the guard of user mode, which is there as long as a VM needs it.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qemu_node.config.network import NetworkConfig
from qemu_node.config.node import Paths
from qemu_node.errors import HostError, MissingPartError, NodeError
from qemu_node.host.concurrency.cancellation import Undo
from qemu_node.net.mac import check_unused
from qemu_node.net.manager import AttachedPort, PortManager
from qemu_node.net.netlink.notices import UPLINK_MOVED
from qemu_node.net.netlink.watch import Watch
from qemu_node.net.portspec import PortSpec
from qemu_node.vm.record.directory import VMDirectory, known_vm_ids
from qemu_node.vm.record.processes import running_vm_ids
from qemu_node.vm.record.record import RecordHeader, StateError, StateHeader

log = logging.getLogger(__name__)

_PAUSE_MIN_S, _PAUSE_MAX_S = 0.25, 30.0
"""Between two reconciles that changes by others have caused."""


class VMPorts:
    """A VM's ports, their descriptors ours until QEMU has inherited them."""

    def __init__(self, attached: Sequence[AttachedPort]) -> None:
        self._open = list(attached)
        self.taps = tuple(one.tap for one in attached)

    @property
    def all_fds(self) -> list[int]:
        """What QEMU inherits."""
        return [fd for tap in self.taps for fd in (*tap.fds, *tap.vhost_fds)]

    async def close(self) -> None:
        """Close our copies; harmless when done twice. The last copy takes the TAP with it."""
        while self._open:
            await self._open.pop().close()


class Network:
    """The network of this node's VMs, for the driver that manages them."""

    def __init__(self, paths: Paths, config: NetworkConfig, manager: PortManager | None) -> None:
        """Use `manager`; None: this process is not root and may not change the host's network."""
        self._paths = paths
        self._config = config
        self._manager = manager
        self._claims: dict[str, PortSpec] = {}
        """Ports of VMs of this process, by TAP, from before they are attached."""
        self._users: set[str] = set()
        """VMs of this process in user mode, from before their start or since their recovery."""
        self._adopted: dict[str, RecordHeader] = {}
        """VMs that this process has recovered; their directories may be elsewhere than ours."""
        # A look at who lives and what is done about it: nobody may end, or begin to need the guard,
        # in between. Attaching may: `PortManager` knows of it.
        self._looking = asyncio.Lock()

    async def aclose(self) -> None:
        """Close what is open of the kernel's; the VMs' ports stay as they are."""
        if self._manager is None:
            return
        self._users.clear()
        await self._unguard_if_unused(self._manager)
        await self._manager.aclose()

    # One VM

    async def attach(self, ports: Sequence[PortSpec]) -> VMPorts:
        """Set up a VM's ports; their descriptors are open, for QEMU to inherit.

        Raises:
            JobError: another VM of this node has one of the MAC addresses.
            NodeError: a port cannot be set up; none of them is left.
        """
        if not ports:
            return VMPorts(())
        if self._manager is None:
            raise MissingPartError(
                "only root can give a VM a VLAN", hint='use network { mode = "user" }'
            )
        live = await asyncio.to_thread(live_vms, self._paths)
        async with Undo() as undo:
            self._claim(ports, live)
            undo.callback(self._unclaim, ports)
            attached = []
            for port in ports:
                attached.append(await self._manager.attach(port))
                undo.push_async_callback(self._manager.detach, port)
                undo.push_async_callback(attached[-1].close)
        return VMPorts(attached)

    def adopt(self, record: RecordHeader) -> None:
        """Count a recovered VM as live, until `disown`."""
        self._adopted[record.vm_id] = record
        if record.has_user_mode:
            self._users.add(record.vm_id)

    def disown(self, vm_id: str) -> None:
        """Note that a recovered VM has ended."""
        self._adopted.pop(vm_id, None)
        self._users.discard(vm_id)

    async def detach(self, ports: Sequence[PortSpec]) -> None:
        """Give up the ports of a VM that has ended. Idempotent; what fails is left to reconcile."""
        if self._manager is None:
            return
        async with self._looking:
            for port in ports:
                try:
                    await self._manager.detach(port)
                except NodeError as exc:
                    fields = {"ifname": port.ifname, "error": str(exc)}
                    log.warning("port not given up", extra=fields)
        self._unclaim(ports)

    async def guard_host(self, vm_id: str) -> None:
        """Return once a VM in user mode is kept from the services of this node, or may use them.

        Without root there is no way to tell a guest's connections from its user's. To be undone by
        `unguard_host`, also if it fails.

        Raises:
            MissingPartError: it cannot be kept from them, and the operator has not allowed it.
        """
        if self._manager is None:
            return
        self._users.add(vm_id)
        try:
            async with self._looking:
                await self._manager.guard_host()
        except NodeError as exc:
            if self._config.allow_host:
                log.warning("guard of user mode not removed", extra={"error": exc.explain()})
                return
            raise MissingPartError(
                f"guests in user mode cannot be kept from this node's services: {exc.explain()}",
                hint="fix that, or allow it: network.allow_host = true in node.toml",
            ) from exc

    async def unguard_host(self, vm_id: str) -> None:
        """Note that a VM in user mode has ended; the guard is removed with the last one."""
        if self._manager is not None:
            self._users.discard(vm_id)
            await self._unguard_if_unused(self._manager)

    async def _unguard_if_unused(self, manager: PortManager) -> None:
        async with self._looking:
            if self._users:
                return
            live = await self._live()
            if not self._has_user_mode(live):
                try:
                    await manager.unguard_host(live.pids)
                except NodeError as exc:
                    log.warning("guard of user mode not removed", extra={"error": exc.explain()})

    async def _live(self) -> "LiveVMs":
        live = await asyncio.to_thread(live_vms, self._paths)
        known = {record.vm_id for record in live.records}
        others = [record for vm_id, record in self._adopted.items() if vm_id not in known]
        return LiveVMs(records=(*live.records, *others), unknown=live.unknown)

    def _has_user_mode(self, live: "LiveVMs") -> bool:
        """Tell whether VMs in user mode live, or may live, or are being started."""
        is_known = any(record.has_user_mode for record in live.records)
        return bool(self._users or live.unknown) or is_known

    # All VMs

    async def reconcile(self) -> None:
        """Make the node's network what the live VMs need, and remove everything else of ours.

        Raises:
            HostError: what a live VM needs is not known; nothing was changed.
            NodeError: the kernel refused a step; the next call tries again.
        """
        if self._manager is None:
            return
        async with self._looking:
            live = await self._live()
            if live.unknown:
                raise HostError(
                    f"the ports of VM {live.unknown[0]} cannot be read, so none of the node's are "
                    "changed",
                    hint="stop that VM, or upgrade this driver if a newer one started it",
                )
            await self._manager.reconcile(
                live.ports, has_user_mode=self._has_user_mode(live), own_pids=live.pids
            )

    async def watch(self) -> None:
        """Reconcile as soon as others take something from VMs. Runs for ever.

        If changes come again and again, the pauses between reconciles get longer. Without root
        there is nothing to watch, and it returns.

        Raises:
            NetworkError: the kernel tells nothing of changes; they are found by the next reconcile.
        """
        if self._manager is None:
            return
        loop = asyncio.get_running_loop()
        pause_s = _PAUSE_MIN_S
        with Watch() as watch:
            while True:
                began = loop.time()
                losses = await watch.losses(self._manager.watched)
                # The reconcile says what was really missing.
                log.info("network may have lost something", extra={"what": ", ".join(losses)})
                pause_s = next_pause(pause_s, quiet_s=loop.time() - began)
                has_moved = UPLINK_MOVED in losses
                if has_moved:
                    await self._announce(self._manager)
                try:
                    await self.reconcile()
                except NodeError as exc:
                    log.warning("network not reconciled", extra={"error": exc.explain()})
                await asyncio.sleep(pause_s)
                if has_moved:
                    # Its port has just come up: the switch may not have listened yet.
                    await self._announce(self._manager)

    async def _announce(self, manager: PortManager) -> None:
        try:
            await manager.announce()
        except NodeError as exc:
            log.warning("VMs not announced to the switches", extra={"error": exc.explain()})

    async def drops(self) -> Mapping[str, Mapping[str, int]]:
        """Return what was dropped of the guests' frames: TAP, reason, number since its start.

        Raises:
            NodeError: the counters cannot be read.
        """
        return {} if self._manager is None else await self._manager.counters()

    async def problems(self) -> list[str]:
        """Return what keeps VMs from the network that node.toml gives them, and what to do."""
        if self._manager is not None:
            return await self._manager.problems()
        if self._config.bridge:
            return [f"VMs cannot use the bridge {self._config.bridge}: the driver is not root"]
        return []

    def _claim(self, ports: Sequence[PortSpec], live: "LiveVMs") -> None:
        """Note whose `ports` are; refused where another VM has one of their MAC addresses."""
        # Nothing is awaited between the look and the note: two starts cannot both find it free.
        others = {port.mac: port.vm_id for port in (*live.ports, *self._claims.values())}
        for port in ports:
            names = {mac: f"VM {vm_id}" for mac, vm_id in others.items() if vm_id != port.vm_id}
            check_unused(port.mac, names)
        self._claims |= {port.ifname: port for port in ports}

    def _unclaim(self, ports: Sequence[PortSpec]) -> None:
        for port in ports:
            self._claims.pop(port.ifname, None)


def next_pause(last_s: float, *, quiet_s: float) -> float:
    """Return how long nothing is done after the next change by others."""
    return _PAUSE_MIN_S if quiet_s > last_s else min(2 * last_s, _PAUSE_MAX_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveVMs:
    """The VMs whose start was completed and whose process lives."""

    records: tuple[RecordHeader, ...]
    unknown: tuple[str, ...]
    """Those of which nothing can be read: what they have of the network is not known."""

    @property
    def ports(self) -> list[PortSpec]:
        """Their ports of the bridge."""
        return [port for record in self.records for port in record.ports]

    @property
    def pids(self) -> list[int]:
        """Their processes."""
        return [record.pid for record in self.records]


def live_vms(paths: Paths) -> LiveVMs:
    """Return the VMs of this node that live."""
    records: list[RecordHeader] = []
    unreadable = set[str]()
    for vm_id in sorted(known_vm_ids(paths)):
        try:
            state: StateHeader | None = VMDirectory.of(paths, vm_id).read_state()
        except StateError as exc:
            state = exc.header
            if state is None:
                unreadable.add(vm_id)
        if state is not None and state.is_running:
            records.append(state.record)
    if unreadable:
        unreadable &= running_vm_ids(paths.vm_data_dir)
    return LiveVMs(records=tuple(records), unknown=tuple(sorted(unreadable)))
