"""TAPs as ports of the bridge: joined and opened step by step, repaired, removed.

Owns the order of the steps, which lets no frame pass too early. Does not own the TAP (`tap`), the
filter (`table`), the bridge (`bridge`), the uplink (`uplink`) nor what has to be repaired (`plan`).
Calls block: use a thread.
"""

import logging
from collections.abc import Collection, Iterable
from contextlib import suppress

from qemu_node.net.errors import BridgeUnfitError, NetworkError
from qemu_node.net.netlink.answers import BridgeFacts, LinkFacts
from qemu_node.net.netlink.messages import (
    add_address,
    add_vlans,
    delete_link,
    delete_vlans,
    set_down,
    set_master,
    set_up,
)
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.netlink.traffic import forget_redirect, redirect
from qemu_node.net.port.checksums import ensure_device, is_redirected
from qemu_node.net.port.plan import plan_ports
from qemu_node.net.portspec import PortSpec
from qemu_node.vlans import to_ranges

log = logging.getLogger(__name__)


def join_bridge(
    route: RouteSocket,
    port: PortSpec,
    ifindex: int,
    bridge: BridgeFacts,
    *,
    is_new: bool,
    checksums: int = 0,
) -> None:
    """Make a TAP the port that `port` says, but for what `open_port` does.

    A new one is still down: it passes no frame. The kernel removes all of this with the TAP.

    Args:
        route: Where to ask.
        port: What it is to be.
        ifindex: The TAP's.
        bridge: The node's bridge, as `check_bridge` found it just now.
        is_new: It is in no bridge yet; otherwise it may be, with any VLANs, and is put right.
        checksums: The device that finishes checksums, for a strict port.

    Raises:
        BridgeUnfitError: the NIC's MTU is beyond the bridge's; nothing was changed.
        NetworkError: the kernel refused a step; those before it are done.
    """
    if port.mtu is not None and port.mtu > bridge.mtu:
        raise BridgeUnfitError(
            f"the NIC's MTU of {port.mtu} is more than the bridge's, which is {bridge.mtu}"
        )
    # A bridge gives each new port its default VLAN, 1 unless told otherwise.
    given = {bridge.default_pvid} - {0}
    steps = [set_master(ifindex, bridge.ifindex, bridge.mtu)]
    if not is_new:
        if port.strict:
            # Nothing passes while the way of its frames is made anew.
            route.do(set_down(ifindex))
            with suppress(NetworkError):
                route.do(forget_redirect(ifindex))
        # What it carries is only told, and changed, in a bridge.
        route.do(*steps)
        steps.clear()
        if (carried := route.read_vlans(ifindex).get(ifindex)) is not None:
            given |= carried.vids
    if unwanted := given - port.vids:
        steps.append(delete_vlans(ifindex, to_ranges(unwanted)))
    steps.append(add_vlans(ifindex, to_ranges(port.vids), is_untagged=port.vlan is not None))
    steps.append(add_address(ifindex, port.mac))
    if port.strict:
        steps += redirect(ifindex, checksums)
    route.do(*steps)


def open_port(route: RouteSocket, port: PortSpec, ifindex: int) -> None:
    """Let the port that `join_bridge` has made pass frames, once the filter guards it.

    Apart from the steps there: the kernel would do this although it had refused one of them.

    Raises:
        NetworkError: the kernel refused; the port is as it was.
    """
    route.do(set_up(ifindex, is_isolated=port.isolated))


def repair_ports(route: RouteSocket, bridge: BridgeFacts, wanted: Iterable[PortSpec]) -> None:
    """Make the bridge's TAPs those of `wanted`, as far as they are there, and no others.

    Raises:
        NetworkError: the kernel refused a step; what comes after it was not done.
    """
    wanted = list(wanted)
    links = route.read_links()
    checksums, bypassing = _find_bypassing(route, links, wanted)
    changes = plan_ports(links, route.read_vlans(), wanted, bridge.ifindex, bypassing)
    for port, ifindex in changes.repair:
        try:
            join_bridge(route, port, ifindex, bridge, is_new=False, checksums=checksums)
            open_port(route, port, ifindex)
        except NetworkError:
            # Its QEMU may have ended meanwhile, and its TAP with it.
            if route.has_link(port.ifname):
                raise
        else:
            log.warning("port put right", extra={"ifname": port.ifname, "vm_id": port.vm_id})
    for link in changes.stray:
        log.warning("TAP of no VM removed", extra={"ifname": link.ifname})
        route.do(delete_link(link.ifindex))


def _find_bypassing(
    route: RouteSocket, links: Iterable[LinkFacts], wanted: Iterable[PortSpec]
) -> tuple[int, Collection[int]]:
    """Return the device that finishes checksums, and the strict ports that do not lead there.

    Without strict ports there is no need for one: 0.
    """
    strict = {port.ifname for port in wanted if port.strict}
    ports = [link.ifindex for link in links if link.ifname in strict]
    if not ports:
        return 0, ()
    device = ensure_device(route)
    return device, [port for port in ports if not is_redirected(route, port, device)]
