"""The node's bridge: whether it is fit for VMs, and what is wrong with it.

Owns these checks, and finding VMs' TAPs on it. Does not own making the bridge, which the operating
system does. Calls block: use a thread.
"""

from collections.abc import Iterator

from qemu_node.config.network import NetworkConfig
from qemu_node.errors import MissingPartError
from qemu_node.net.errors import NetworkError
from qemu_node.net.netlink.answers import BridgeFacts
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.portspec import TAP_NAME
from qemu_node.vlans import VID_MIN, format_vlans


def check_bridge(route: RouteSocket, ifname: str) -> BridgeFacts:
    """Return the facts of the node's bridge; raise unless it keeps VLANs apart.

    Checked for every port: if the VLAN filtering is turned off, all VMs share one network, and the
    kernel reports no error. With multicast snooping, a query from one guest makes the bridge
    forward multicast of all VLANs only to guests that have joined, so that others lose neighbor
    discovery.

    Raises:
        MissingPartError: it does not exist, is not a bridge, does not filter VLANs, or snoops.
        NetworkError: the kernel did not answer.
    """
    facts = route.read_bridge(ifname)
    if facts is None:
        raise MissingPartError(
            f"the bridge {ifname} does not exist", hint="network.bridge in node.toml names it"
        )
    if not facts.is_bridge:
        raise MissingPartError(f"{ifname} is not a bridge", hint="see network.bridge in node.toml")
    if not facts.vlan_filtering:
        raise MissingPartError(
            f"the bridge {ifname} does not filter VLANs",
            hint=f"ip link set {ifname} type bridge vlan_filtering 1 vlan_default_pvid 0",
        )
    if facts.mcast_snooping:
        raise MissingPartError(
            f"the bridge {ifname} snoops multicast: one guest could cut off others' IPv6",
            hint=f"ip link set {ifname} type bridge mcast_snooping 0",
        )
    return facts


def has_taps(route: RouteSocket, ifname: str) -> bool:
    """Tell whether any VMs have TAPs on the bridge `ifname`, whoever started them."""
    links = route.read_links()
    bridges = {link.ifindex for link in links if link.ifname == ifname}
    return any(link.master in bridges and TAP_NAME.fullmatch(link.ifname) for link in links)


def bridge_problems(config: NetworkConfig) -> list[str]:
    """Return what is wrong with bridge and uplink, each with what to do. Changes nothing."""
    if not config.bridge:
        return []
    try:
        with RouteSocket() as route:
            bridge = check_bridge(route, config.bridge)
            return list(_problems(route, bridge, config))
    except (NetworkError, MissingPartError) as exc:
        return [exc.explain()]


def _problems(route: RouteSocket, bridge: BridgeFacts, config: NetworkConfig) -> Iterator[str]:
    links = {link.ifname: link for link in route.read_links()}
    name, uplink = config.bridge, config.uplink
    if not links[name].is_up:
        yield f"the bridge {name} is down (ip link set {name} up)"
    if uplink and uplink not in links:
        yield f"the uplink {uplink} does not exist (network.uplink in node.toml names it)"
    elif uplink and links[uplink].master != bridge.ifindex:
        yield f"the uplink {uplink} is not a port of {name} (ip link set {uplink} master {name})"
    own = route.read_vlans(bridge.ifindex).get(bridge.ifindex)
    if own is not None and (open_ := own.vids - {config.management_vlan, VID_MIN - 1}):
        yield (
            f"the node itself is in VLAN {format_vlans(open_)} of {name}, which a policy may give "
            "to VMs (set network.management_vlan in node.toml)"
        )
