"""The ports of this node's VMs: attaching, detaching, and keeping the kernel's state right.

`PortManager` combines TAP, bridge port, filter and uplink. It owns their order and their undo.
Does not own the decision what a NIC may be (`policy`) nor which VMs run.

QEMU holds the last descriptors of its TAPs, so the kernel removes them when it ends. Elements of
the filter and VLANs of the uplink stay: `detach` removes them, or else `reconcile` does.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from qemu_node.config.network import NetworkConfig
from qemu_node.errors import MissingPartError, NodeError
from qemu_node.host.concurrency.threads import Worker, to_the_end
from qemu_node.net.announce import announce
from qemu_node.net.errors import NetworkOwnedError, NftMissingError, TapBusyError
from qemu_node.net.filter.elements import elements
from qemu_node.net.filter.filtertable import FilterTable
from qemu_node.net.filter.guard import UserGuard
from qemu_node.net.filter.nft import Nft
from qemu_node.net.filter.ruleset import FAMILY, TABLE
from qemu_node.net.netlink.notices import Watched
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.owner import NetworkOwner
from qemu_node.net.port.bridge import bridge_problems, check_bridge, has_taps
from qemu_node.net.port.bridgeport import join_bridge, open_port, repair_ports
from qemu_node.net.port.checksums import ensure_device
from qemu_node.net.port.portplan import plan_elements
from qemu_node.net.port.rate import limit_rate
from qemu_node.net.port.tap import Tap, check_free, open_tap
from qemu_node.net.port.uplinkport import Uplink
from qemu_node.net.portspec import PortSpec

log = logging.getLogger(__name__)

_BUSY_POLL_S = 0.01
_BUSY_WAIT_S = 10.0
"""How long the kernel may take to remove the TAP of a VM's last run: 16 ms or more for each
queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedPort:
    """A port that is up, with the descriptors for QEMU to inherit."""

    port: PortSpec
    tap: Tap

    async def close(self) -> None:
        """Close our descriptors, once QEMU has its own. Closing the last one removes the TAP."""
        await to_the_end(self.tap.close)


class PortManager:
    """The network of this node's VMs. One process at a time manages it. Calls may overlap."""

    def __init__(self, config: NetworkConfig, *, identity: str, uids: range | None = None) -> None:
        """Take the settings. Nothing is changed before `begin`.

        Args:
            config: The section `[network]`.
            identity: The driver's identity, for `NetworkOwner`.
            uids: The users that VMs run as, for the guard of user mode; None without root.
        """
        self._config = config
        self._guard = None if uids is None else UserGuard(uids, is_open=config.allow_host)
        self._has_user_mode = False
        """Some VM in user mode needs the guard."""
        self._has_cleaned_up = False
        """The tables of drivers that no longer run were removed."""
        self._uplink = Uplink(config.uplink, config.management_vlan, config.vids)
        self._owner = NetworkOwner(identity)
        self._nft: Nft | None = None
        self._table: FilterTable | None = None
        # One call at a time: the kernel's RTNL lock serializes them anyway, and a reconcile must
        # not take what an attach has just made for a left-over.
        self._lock = asyncio.Lock()
        # Calls to the kernel block, for long if another process holds the RTNL lock.
        self._worker = Worker("network")
        self._route = RouteSocket()
        """Only the worker's thread uses it."""
        self._second_worker = Worker("network-2")
        """Does a part of the other worker's call at the same time."""
        self._ports: dict[str, PortSpec] = {}
        """The ports that this process attached, by TAP: of VMs that run or are being started."""
        self._live: dict[str, PortSpec] = {}
        """The ports of all running VMs at the last reconcile, whoever attached them."""

    # Life

    async def begin(self) -> None:
        """Take over the filter, or load it. Idempotent.

        Raises:
            NftMissingError: libnftables is missing.
            NetworkOwnedError: another driver manages the network of this node.
            NetworkError: the kernel refused.
        """
        async with self._lock:
            if self._config.bridge:
                await self._worker.to_the_end(self._begin)

    def _begin(self) -> FilterTable:
        self._owner.acquire(lambda: has_taps(self._route, self._config.bridge))
        if self._table is None:
            table = FilterTable(self._library())
            table.load()
            self._table = table
        return self._table

    def _library(self) -> Nft:
        if self._nft is None:
            self._nft = Nft()
        return self._nft

    async def guard_host(self) -> None:
        """Keep guests in user mode off this node, unless node.toml allows them.

        Call it before a VM with a NIC in user mode starts.

        Raises:
            NftMissingError: libnftables is missing.
            NetworkError: the kernel refused.
        """
        async with self._lock:
            await self._worker.to_the_end(self._keep_guard, has_user_mode=True, own_pids=())

    async def unguard_host(self, own_pids: Collection[int]) -> None:
        """Remove the guard of user mode: no VM of ours needs it any more.

        Args:
            own_pids: The processes of our VMs. The guard stays if others run as the same users.

        Raises:
            NetworkError: the kernel refused; `reconcile` will try again.
        """
        async with self._lock:
            await self._worker.to_the_end(self._keep_guard, has_user_mode=False, own_pids=own_pids)

    def _keep_guard(self, *, has_user_mode: bool, own_pids: Collection[int]) -> None:
        self._has_user_mode = has_user_mode
        if self._guard is None:
            return
        try:
            if not self._has_cleaned_up:
                self._guard.remove_abandoned(self._library())
                self._has_cleaned_up = True
            if has_user_mode:
                self._guard.ensure(self._library())
            else:
                self._guard.remove(self._library(), own_pids)
        except NftMissingError:
            # Without the library nothing was loaded, so there is nothing to remove.
            if has_user_mode and not self._config.allow_host:
                raise

    async def aclose(self) -> None:
        """Close the filter, which stays loaded, and end the threads. Later calls begin again."""
        async with self._lock:
            nft, self._nft, self._table = self._nft, None, None
            if nft is not None:
                await self._worker.to_the_end(nft.close)
            self._second_worker.close()
            self._worker.close()
            self._route.close()
            self._owner.release()

    # One port

    async def attach(self, port: PortSpec) -> AttachedPort:
        """Set up the port and its filter; return it with its descriptors, close-on-exec.

        Waits until the kernel has removed the TAP of the VM's last run.

        Raises:
            MissingPartError: the bridge or the uplink does not exist or is not fit for VLANs.
            NetworkError: the kernel refused a step. In all cases nothing is left.
        """
        deadline = asyncio.get_running_loop().time() + _BUSY_WAIT_S
        while True:
            try:
                async with self._lock:
                    return await self._attach_once(port)
            except TapBusyError:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
            await asyncio.sleep(_BUSY_POLL_S)

    async def _attach_once(self, port: PortSpec) -> AttachedPort:
        done: list[Tap] = []
        try:
            await self._worker.to_the_end(lambda: done.append(self._attach(port)))
            if port.rate_mbit is not None:
                await limit_rate(done[0].ifindex, port.rate_mbit)
        except BaseException:
            if done:
                # The call was cancelled after all was done, or the rate limit was refused.
                await self._worker.to_the_end(self._undo, port, done[0])
            raise
        self._ports[port.ifname] = port
        return AttachedPort(port=port, tap=done[0])

    def _attach(self, port: PortSpec) -> Tap:
        table = self._filter()
        bridge = check_bridge(self._route, self._config.bridge)
        # Check first: a TAP of this name that still exists would get the rights in the filter.
        check_free(self._route, port.ifname)
        with ExitStack() as undo:
            undo.callback(self._forget, port)
            # In parallel: this is nearly half of the work, and the kernel's locks for the filter
            # and for devices differ.
            guarded = self._second_worker.start(lambda: table.add(elements(port)))
            undo.callback(wait, [guarded])
            checksums = ensure_device(self._route) if port.strict else 0
            tap = open_tap(port.ifname, queues=port.queues, vhost=self._config.vhost == "auto")
            undo.callback(tap.close)
            join_bridge(self._route, port, tap.ifindex, bridge, is_new=True, checksums=checksums)
            self._uplink.acquire(self._route, port.ifname, port.vids)
            # No frame passes before the filter guards the port.
            guarded.result()
            open_port(self._route, port, tap.ifindex)
            undo.pop_all()
        return tap

    def _undo(self, port: PortSpec, tap: Tap) -> None:
        try:
            self._forget(port)
        finally:
            tap.close()

    async def detach(self, port: PortSpec) -> None:
        """Remove what the kernel does not remove with the TAP. Idempotent.

        Call it when QEMU has ended. If the guest still sends, its frames are dropped from now on.

        Raises:
            NetworkError: the kernel refused; `reconcile` will remove what is left.
        """
        async with self._lock:
            self._ports.pop(port.ifname, None)
            self._live.pop(port.ifname, None)
            await self._worker.to_the_end(self._forget, port)

    def _forget(self, port: PortSpec) -> None:
        try:
            self._filter().remove(elements(port))
        finally:
            self._uplink.release(self._route, port.ifname)

    def _filter(self) -> FilterTable:
        if not self._config.bridge:
            raise MissingPartError(
                "this node has no bridge for VMs", hint="set network.bridge in node.toml"
            )
        return self._begin()

    # All ports

    async def reconcile(
        self,
        live: Sequence[PortSpec],
        *,
        has_user_mode: bool = False,
        own_pids: Collection[int] = (),
    ) -> None:
        """Make the kernel have what running VMs need, and nothing else of ours.

        Ports that this process has attached count as running. This restores what others removed:
        the filter, its rules and elements, VLANs of the uplink, a TAP's place in the bridge, the
        guard of user mode.

        Args:
            live: The ports of all running VMs of this node.
            has_user_mode: One of these VMs has a NIC in user mode.
            own_pids: The processes of these VMs.

        Raises:
            NetworkError, MissingPartError: the first error; all other parts were done.
        """
        async with self._lock:
            self._live = {port.ifname: port for port in live} | self._ports
            await self._worker.to_the_end(
                self._reconcile,
                list(self._live.values()),
                has_user_mode=has_user_mode,
                own_pids=own_pids,
            )

    def _reconcile(
        self, wanted: Sequence[PortSpec], *, has_user_mode: bool, own_pids: Collection[int]
    ) -> None:
        parts: list[Callable[[], None]] = [
            partial(self._keep_guard, has_user_mode=has_user_mode, own_pids=own_pids)
        ]
        route = self._route
        if self._config.bridge:
            parts += [
                partial(self._reconcile_filter, wanted),
                lambda: self._uplink.restore(route, {port.ifname: port.vids for port in wanted}),
                lambda: repair_ports(route, check_bridge(route, self._config.bridge), wanted),
            ]
        # Each part by itself: if the bridge is gone, the filter must still be repaired.
        problems: list[NodeError] = []
        for part in parts:
            try:
                part()
            except NetworkOwnedError as exc:
                # The other parts would take what the owner has made for left-overs and remove it.
                problems.append(exc)
                break
            except NodeError as exc:
                problems.append(exc)
        if problems:
            raise problems[0]

    def _reconcile_filter(self, wanted: Iterable[PortSpec]) -> None:
        table = self._filter()
        content = table.read()
        if not table.is_intact(content):
            log.warning("network filter was changed by another process; loading it again")
            table.load()
            content = table.read()
        actual = frozenset() if content is None else content.elements
        added, removed = plan_elements(actual, wanted)
        if added or removed:
            log.info("filter changed", extra={"added": len(added), "removed": len(removed)})
            table.change(added, removed)

    async def announce(self) -> None:
        """Tell the switches that the VMs are behind the NIC that the uplink uses now.

        Raises:
            NetworkError: the frames cannot be sent.
        """
        ports = list((self._live | self._ports).values())
        if self._config.uplink and ports:
            await self._worker.to_the_end(
                announce, self._config.uplink, ports, self._uplink.untagged
            )

    # What there is to say

    def watched(self) -> Watched:
        """Return what VMs need of the network, for `Watch`."""
        ports = self._live | self._ports
        tables = {f"{FAMILY} {TABLE}"} if self._config.bridge else set()
        if self._guard is not None and self._has_user_mode and not self._config.allow_host:
            tables.add(self._guard.table)
        return Watched(
            bridge=self._config.bridge,
            uplink=self._config.uplink,
            management_vlan=self._config.management_vlan,
            tables=frozenset(tables),
            ports=ports,
        )

    async def counters(self) -> Mapping[str, Mapping[str, int]]:
        """Return the counts of dropped frames: TAP → reason (`ruleset.Reason`) → frames.

        Raises:
            NftError: the listing failed.
        """
        if self._table is None:
            return {}
        content = await asyncio.to_thread(self._table.read)
        return {} if content is None else content.drops

    async def problems(self) -> list[str]:
        """Return why VMs do not get the network of node.toml, each reason with what to do.

        It changes nothing, so that `doctor` can call it. Whether another driver manages the
        network is known only after this one has tried to.
        """
        return await asyncio.to_thread(self._problems)

    def _problems(self) -> list[str]:
        found = bridge_problems(self._config)
        if self._owner.problem is not None:
            found.append(self._owner.problem.explain())
        if self._config.bridge or (self._guard is not None and not self._config.allow_host):
            try:
                if self._nft is None:
                    Nft().close()
            except NftMissingError as exc:
                found.append(exc.explain())
        return found
