"""What has to change for the kernel to have what live VMs need, and nothing else. Pure.

Owns the comparisons. Does not own reading nor changing the kernel (`manager`, `uplink`, `table`).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from qemu_node.net.filter.elements import Element, elements
from qemu_node.net.netlink.answers import LinkFacts, PortVlans
from qemu_node.net.portspec import TAP_NAME, PortSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PortChanges:
    """What to do about TAPs."""

    repair: tuple[tuple[PortSpec, int], ...]
    """Ports, and the ifindex of each, that somebody took out of the bridge or changed."""
    stray: tuple[LinkFacts, ...]
    """TAPs of ours on the bridge that no live VM has: an heir of QEMU's descriptors keeps them."""


def plan_uplink(
    *,
    actual: frozenset[int],
    foreign: frozenset[int],
    wanted: frozenset[int],
    removable: frozenset[int],
) -> tuple[frozenset[int], frozenset[int]]:
    """Return the VLANs to add to the uplink and those to remove from it.

    Args:
        actual: What it carries.
        foreign: What is none of ours: neither added nor removed.
        wanted: What VMs use.
        removable: What may be of VMs that have ended.
    """
    return wanted - actual - foreign, (actual & removable) - wanted - foreign


def plan_elements(
    actual: frozenset[Element], wanted: Iterable[PortSpec]
) -> tuple[frozenset[Element], frozenset[Element]]:
    """Return the elements to add to the filter's sets and those to remove."""
    needed = frozenset(element for port in wanted for element in elements(port))
    return needed - actual, actual - needed


def plan_ports(
    links: Iterable[LinkFacts],
    vlans: Mapping[int, PortVlans],
    wanted: Iterable[PortSpec],
    bridge: int,
    bypassing: Collection[int] = (),
) -> PortChanges:
    """Return which TAPs to put right and which to remove.

    A port without a TAP is no case for a change: a TAP is made with the QEMU that has it. A device
    that only looks like ours and is in no bridge, or in another one, is left alone.

    Args:
        links: All devices.
        vlans: The VLANs of bridge ports, by ifindex.
        wanted: Ports of live VMs.
        bridge: The ifindex of the node's bridge.
        bypassing: Strict ports, by ifindex, whose frames are not finished before they are filtered.
    """
    by_name = {port.ifname: port for port in wanted}
    repair, stray = [], []
    for link in links:
        port = by_name.get(link.ifname)
        if port is not None:
            carried = vlans.get(link.ifindex)
            is_right = link.master == bridge and link.is_up and _is_right(port, carried)
            if not is_right or link.ifindex in bypassing:
                repair.append((port, link.ifindex))
        elif link.master == bridge and TAP_NAME.fullmatch(link.ifname):
            stray.append(link)
    return PortChanges(repair=tuple(repair), stray=tuple(stray))


def _is_right(port: PortSpec, carried: PortVlans | None) -> bool:
    """Tell whether a port carries exactly its VLANs, tagged as they should be."""
    untagged = frozenset() if port.vlan is None else frozenset((port.vlan,))
    return carried is not None and carried.vids == port.vids and carried.untagged == untagged
