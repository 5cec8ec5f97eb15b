"""TAPs as ports of the bridge: joined and opened step by step, repaired, removed.

Owns the order of the steps, which lets no frame pass too early. Does not own the TAP (`tap`), the
filter (`net.filter`), the bridge (`bridge`), the uplink (`uplinkport`) nor what has to be repaired
(`portplan`). Calls block: use a thread.
"""

import logging
from collections.abc import Collection, Iterable
from contextlib import suppress

from qemu_node.errors import MissingPartError
from qemu_node.net.errors import NetworkError
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
from qemu_node.net.port.portplan import plan_ports
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
    """Make a TAP the port that `port` describes, except for what `open_port` does.

    A new TAP stays down and passes no frame. The kernel removes all settings with the TAP.

    Args:
        route: The socket.
        port: The port's settings.
        ifindex: The TAP's.
        bridge: The node's bridge, as `check_bridge` returned it just now.
        is_new: The TAP is in no bridge yet. Otherwise it may be, with any VLANs, and is repaired.
        checksums: The ifindex of the device that completes checksums, for a strict port.

    Raises:
        MissingPartError: the NIC's MTU is larger than the bridge's; nothing was changed.
        NetworkError: the kernel refused a step; the steps before it were done.
    """
    if port.mtu is not None and port.mtu > bridge.mtu:
        raise MissingPartError(
            f"the NIC's MTU of {port.mtu} is more than the bridge's, which is {bridge.mtu}"
        )
    # A bridge gives each new port its default VLAN, which is 1 by default.
    given = {bridge.default_pvid} - {0}
    steps = [set_master(ifindex, bridge.ifindex, bridge.mtu)]
    if not is_new:
        if port.strict:
            # No frame passes while the redirect is replaced.
            route.do(set_down(ifindex))
            with suppress(NetworkError):
                route.do(forget_redirect(ifindex))
        # Only a port of a bridge has VLANs that can be read and changed.
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
    """Let the port pass frames. Call it after `join_bridge`, once the filter guards the port.

    It is not a step of `join_bridge`, because the kernel would do it even if it had refused an
    earlier step.

    Raises:
        NetworkError: the kernel refused; the port was not changed.
    """
    route.do(set_up(ifindex, is_isolated=port.isolated))


def repair_ports(route: RouteSocket, bridge: BridgeFacts, wanted: Iterable[PortSpec]) -> None:
    """Repair the existing TAPs of `wanted`, and remove all other TAPs of ours from the bridge.

    Raises:
        NetworkError: the kernel refused a step; the steps after it were not done.
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
            # QEMU may have ended meanwhile, and the TAP with it.
            if route.has_link(port.ifname):
                raise
        else:
            log.warning("port repaired", extra={"ifname": port.ifname, "vm_id": port.vm_id})
    for link in changes.stray:
        log.warning("removed a TAP that belongs to no VM", extra={"ifname": link.ifname})
        route.do(delete_link(link.ifindex))


def _find_bypassing(
    route: RouteSocket, links: Iterable[LinkFacts], wanted: Iterable[PortSpec]
) -> tuple[int, Collection[int]]:
    """Return the device that completes checksums, and the strict ports that bypass it.

    Without strict ports the device is not needed: 0.
    """
    strict = {port.ifname for port in wanted if port.strict}
    ports = [link.ifindex for link in links if link.ifname in strict]
    if not ports:
        return 0, ()
    device = ensure_device(route)
    return device, [port for port in ports if not is_redirected(route, port, device)]
