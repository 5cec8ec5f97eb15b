"""TAPs that are not as they should be: put right, or removed.

Owns doing it. Does not own the comparison (`reconcile`) nor the steps of one port (`port`). Calls
block: use a thread.
"""

import logging
from collections.abc import Collection, Iterable

from qemu_node.net.errors import NetworkError
from qemu_node.net.netlink.facts import BridgeFacts, LinkFacts
from qemu_node.net.netlink.request import delete_link
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.port.checksums import ensure_device, is_redirected
from qemu_node.net.port.port import join_bridge, open_port
from qemu_node.net.port.reconcile import plan_ports
from qemu_node.net.spec import PortSpec

log = logging.getLogger(__name__)


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
