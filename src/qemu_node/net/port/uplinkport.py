"""The bridge port that leads out of the node. It carries exactly the VLANs that VMs use.

Owns adding a VLAN for its first user and removing it after the last. Does not own the device,
which the operating system makes. `PortManager` says which port uses which VLANs, also after a
restart; nothing is stored on disk. Calls block: use a thread.
"""

import logging
import socket
from collections.abc import Mapping

from qemu_node.errors import MissingPartError
from qemu_node.net.netlink.answers import PortVlans
from qemu_node.net.netlink.messages import add_vlans, delete_vlans
from qemu_node.net.netlink.rtnl import RouteSocket
from qemu_node.net.port.portplan import plan_uplink
from qemu_node.vlans import VID_MIN, format_vlans, to_ranges

log = logging.getLogger(__name__)

_NOTHING = PortVlans(vids=frozenset(), untagged=frozenset())


class Uplink:
    """The VLANs of the uplink port, for one thread at a time. Without a name it does nothing.

    Only VLANs that VMs can have, or that one has had, are removed: a tagged VLAN that an operator
    added, for storage say, stays. Untagged VLANs, VLAN 1 and `management_vlan` belong to the
    operating system: they are never added or removed. Adding an untagged one again would make its
    frames tagged and cut the node off. `restore`, and the first use of a new device, read which are
    untagged.
    """

    def __init__(self, ifname: str, management_vlan: int, vms_vlans: frozenset[int]) -> None:
        """Take the settings. Nothing is changed.

        Args:
            ifname: The device; empty if there is none.
            management_vlan: The node's own VLAN.
            vms_vlans: The VLANs that VMs can have.
        """
        self._ifname = ifname
        self._management_vlan = management_vlan
        self._vms_vlans = vms_vlans
        self._users: dict[str, frozenset[int]] = {}
        self._read_ifindex = 0
        """The ifindex of the device for which `untagged` is known; 0: none."""
        self.untagged: frozenset[int] = frozenset()
        """The VLANs whose frames have no tag outside, when the device was last read."""

    def acquire(self, route: RouteSocket, user: str, vids: frozenset[int]) -> None:
        """Carry `vids` until `user` releases them.

        Raises:
            MissingPartError: there is no such device.
            NetworkError: the kernel refused. In both cases `user` still counts as their user until
                it releases them.
        """
        first = vids - self._used()
        self._users[user] = vids
        self._vms_vlans |= vids
        if first:
            self._apply(route, touched=first)

    def release(self, route: RouteSocket, user: str) -> None:
        """Stop carrying the VLANs that only `user` had. An unknown user is OK.

        Raises:
            MissingPartError, NetworkError: as `acquire`; `user` no longer counts.
        """
        vids = self._users.pop(user, frozenset())
        if last := vids - self._used():
            self._apply(route, touched=last)

    def restore(self, route: RouteSocket, users: Mapping[str, frozenset[int]]) -> None:
        """Carry exactly the VLANs of `users`, whatever the device carries now.

        Raises:
            MissingPartError, NetworkError: as `acquire`.
        """
        self._users = dict(users)
        self._vms_vlans |= self._used()
        self._apply(route, touched=None)

    def _used(self) -> frozenset[int]:
        return frozenset[int]().union(*self._users.values())

    def _apply(self, route: RouteSocket, *, touched: frozenset[int] | None) -> None:
        """Make the device carry what is used. Change only VLANs in `touched`; None: all."""
        if not self._ifname:
            return
        try:
            ifindex = socket.if_nametoindex(self._ifname)
        except OSError as exc:
            raise MissingPartError(
                f"the uplink {self._ifname} does not exist",
                hint="network.uplink in node.toml names it",
            ) from exc
        used = self._used()
        if touched is None or ifindex != self._read_ifindex:
            carried = route.read_vlans(ifindex).get(ifindex, _NOTHING)
            self._read_ifindex, self.untagged = ifindex, carried.untagged
            actual = carried.vids
        else:
            # Do not read the VLANs: a start would have to wait. Adding one that is there, or
            # removing one that is not, is no error for the kernel.
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
