"""One TAP as a port of the bridge: the steps, in the order that leaves no window.

Owns that order. Does not own the TAP (`tap`), the filter (`table`), the bridge (`bridge`) nor the
uplink (`uplink`). Calls block: use a thread.
"""

from contextlib import suppress

from qemu_node.net.errors import BridgeUnfitError, NetworkError
from qemu_node.net.netlink.facts import BridgeFacts
from qemu_node.net.netlink.request import (
    add_address,
    add_vlans,
    delete_vlans,
    set_down,
    set_master,
    set_up,
)
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.netlink.traffic import forget_redirect, redirect
from qemu_node.net.spec import PortSpec
from qemu_node.vlans import to_ranges


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
