"""The port that leads out of the node: it carries exactly the VLANs that VMs use.

Owns adding a VLAN before its first user and removing it after the last. Does not own the device,
which the operating system makes. Who uses what is told, and found again after a restart, by
`PortManager`; nothing is counted on disk. Calls block: use a thread.
"""

import logging
import socket
from collections.abc import Mapping

from qemu_node.net.errors import BridgeUnfitError
from qemu_node.net.netlink.answers import PortVlans
from qemu_node.net.netlink.messages import add_vlans, delete_vlans
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.port.plan import plan_uplink
from qemu_node.vlans import VID_MIN, format_vlans, to_ranges

log = logging.getLogger(__name__)

_NOTHING = PortVlans(vids=frozenset(), untagged=frozenset())


class Uplink:
    """The VLANs of the uplink port, for one thread at a time. Without a name it is no device.

    Only VLANs that VMs can be given, or that one has had, are removed: a tagged one that an
    operator added, for storage say, stays. VLANs whose frames it carries untagged, VLAN 1 and
    `management_vlan` are the operating system's: they are never added, nor removed. Adding one
    again would make its frames tagged, and cut the node off. Which are untagged is looked at by
    each `restore`, and where the device is a new one.
    """

    def __init__(self, ifname: str, management_vlan: int, vms_vlans: frozenset[int]) -> None:
        """Take the names and numbers; nothing is touched.

        Args:
            ifname: The device; empty: none.
            management_vlan: The node's own.
            vms_vlans: Those that VMs can be given.
        """
        self._ifname = ifname
        self._management_vlan = management_vlan
        self._vms_vlans = vms_vlans
        self._users: dict[str, frozenset[int]] = {}
        self._looked_at = 0
        """The ifindex of the device of which the next is known; 0: of none."""
        self.untagged: frozenset[int] = frozenset()
        """VLANs whose frames have no tag outside, as it was when the device was last looked at."""

    def acquire(self, route: RouteSocket, user: str, vids: frozenset[int]) -> None:
        """Carry `vids`, as long as `user` has them.

        Raises:
            BridgeUnfitError: there is no such device.
            NetworkError: the kernel refused. In both cases `user` has them all the same, until it
                releases them.
        """
        first = vids - self._used()
        self._users[user] = vids
        self._vms_vlans |= vids
        if first:
            self._apply(route, touched=first)

    def release(self, route: RouteSocket, user: str) -> None:
        """Carry no longer what `user` alone had; without such a user nothing happens.

        Raises:
            BridgeUnfitError, NetworkError: as `acquire`; `user` has nothing any more.
        """
        vids = self._users.pop(user, frozenset())
        if last := vids - self._used():
            self._apply(route, touched=last)

    def restore(self, route: RouteSocket, users: Mapping[str, frozenset[int]]) -> None:
        """Carry exactly what `users` have, whatever the device carries now.

        Raises:
            BridgeUnfitError, NetworkError: as `acquire`.
        """
        self._users = dict(users)
        self._vms_vlans |= self._used()
        self._apply(route, touched=None)

    def _used(self) -> frozenset[int]:
        return frozenset[int]().union(*self._users.values())

    def _apply(self, route: RouteSocket, *, touched: frozenset[int] | None) -> None:
        """Make the device carry what is used, as far as `touched` goes; None: everywhere."""
        if not self._ifname:
            return
        try:
            ifindex = socket.if_nametoindex(self._ifname)
        except OSError as exc:
            raise BridgeUnfitError(
                f"the uplink {self._ifname} does not exist",
                hint="network.uplink in node.toml names it",
            ) from exc
        used = self._used()
        if touched is None or ifindex != self._looked_at:
            carried = route.read_vlans(ifindex).get(ifindex, _NOTHING)
            self._looked_at, self.untagged = ifindex, carried.untagged
            actual = carried.vids
        else:
            # No start waits for the listing: what is to be added is taken not to be there, and what
            # is to go to be there. The kernel minds neither.
            actual = touched - used
        add, remove = plan_uplink(
            actual=actual,
            foreign=self.untagged | {VID_MIN - 1, self._management_vlan},
            wanted=used,
            removable=self._vms_vlans,
        )
        if touched is not None:
            add, remove = add & touched, remove & touched
        if add:
            route.do(add_vlans(ifindex, to_ranges(add)))
        if remove:
            route.do(delete_vlans(ifindex, to_ranges(remove)))
        if add or remove:
            log.info(
                "uplink changed",
                extra={
                    "uplink": self._ifname,
                    "added": format_vlans(add),
                    "removed": format_vlans(remove),
                },
            )
