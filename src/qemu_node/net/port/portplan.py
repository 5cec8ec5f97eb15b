"""What must change so that the kernel has what running VMs need, and nothing else. Pure.

Owns the comparisons. Does not own reading or changing the kernel's state (`manager`, `uplinkport`,
`bridgeport`).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from qemu_node.net.filter.elements import Element, elements
from qemu_node.net.netlink.answers import LinkFacts, PortVlans
from qemu_node.net.portspec import TAP_NAME, PortSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PortChanges:
    """What to do with TAPs."""

    repair: tuple[tuple[PortSpec, int], ...]
    """Ports that another process has changed or taken out of the bridge, with their ifindex."""
    stray: tuple[LinkFacts, ...]
    """TAPs of ours on the bridge without a running VM: a process that inherited QEMU's descriptors
    keeps them."""


def plan_uplink(
    *,
    actual: frozenset[int],
    foreign: frozenset[int],
    wanted: frozenset[int],
    removable: frozenset[int],
) -> tuple[frozenset[int], frozenset[int]]:
    """Return the VLANs to add to the uplink and those to remove from it.

    Args:
        actual: The VLANs that the uplink carries.
        foreign: VLANs that do not belong to us: they are neither added nor removed.
        wanted: The VLANs that VMs use.
        removable: VLANs that may be left of VMs that have ended.
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
    """Return which TAPs to repair and which to remove.

    A port without a TAP needs no change: a TAP exists only while its QEMU runs. A device with a
    name like ours that is in no bridge, or in another one, is left alone.

    Args:
        links: All devices.
        vlans: The VLANs of bridge ports, by ifindex.
        wanted: The ports of running VMs.
        bridge: The ifindex of the node's bridge.
        bypassing: The ifindexes of strict ports that bypass the device that completes checksums.
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
    """Tell whether a port carries exactly its VLANs, each tagged or untagged as wanted."""
    untagged = frozenset() if port.vlan is None else frozenset((port.vlan,))
    return carried is not None and carried.vids == port.vids and carried.untagged == untagged
