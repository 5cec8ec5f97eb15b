"""A node between two switches, in namespaces: what the tests of the network stand in.

    lan ── sw1 ═══ sw2          sw1, sw2: switches, a trunk between them
            │       │           lan: a host behind the first switch
          nic1    nic2          bond0 of br0 on the node, as osimage/files makes them
            └─ bond0 ┘
                │
               br0 ── TAPs of the driver

Owns the topology and how a frame's way is followed. Does not own what a test expects.
"""

import asyncio
import itertools
import os
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from network import frames
from network.facts import MANAGEMENT, vlans_of, wait_until
from network.frames import Frame, Tag
from network.namespaces import bridge, inside, ip, private_network
from network.wire import Arrival, End, Guest, Node, Sender, Wire

from qemu_node.config.network import NetworkConfig, NetworkPolicy
from qemu_node.net.manager import AttachedPort, PortManager
from qemu_node.net.portspec import PortSpec, tap_name

NODE_MAC, NODE_IP, NODE_PORT = "52:54:00:99:00:01", "10.99.0.1", 9999
OUTSIDE_MAC = "52:54:00:77:00:01"
CONFIG = NetworkConfig(
    bridge="br0",
    uplink="bond0",
    management_vlan=MANAGEMENT,
    policy=(NetworkPolicy(namespaces=("*",), vlans=("2-4093",), trunk=True),),
)
_T = TypeVar("_T")

_NODE = f"""
link add nic1 type veth peer name node netns sw1
link add nic2 type veth peer name node netns sw2
link add bond0 type bond mode active-backup miimon 100
link set nic1 master bond0
link set nic2 master bond0
link add br0 address {NODE_MAC} type bridge vlan_filtering 1 vlan_default_pvid 0 stp_state 0 \
forward_delay 0 mcast_snooping 0
link set bond0 master br0
link set br0 mtu 1499
link set br0 mtu 1500
link set nic1 up
link set nic2 up
link set bond0 up
link set br0 up
addr add {NODE_IP}/24 dev br0
"""
_NODE_VLANS = f"""
vlan add dev bond0 vid {MANAGEMENT} pvid untagged
vlan add dev br0 vid {MANAGEMENT} pvid untagged self
"""


class Lab:
    """The node, its switches and the guests on its ports."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._numbers = itertools.count(1)
        self._noise: dict[str, list[Arrival]] = {}
        self.manager = PortManager(CONFIG, identity="test")
        self.ports: dict[str, AttachedPort] = {}
        self.ends: dict[str, End] = {}
        self._counters: Mapping[str, Mapping[str, int]] | None = None
        """Those of the filter, until somebody may send something."""

    def run(self, coro: Coroutine[Any, Any, _T]) -> _T:
        """Return what `coro` returns."""
        return self._runner.run(coro)

    def attach(self, spec: PortSpec, name: str = "") -> Guest:
        """Attach a port and let a guest have its descriptors, under `name` or its VM's."""
        attached = self.run(self.manager.attach(spec))
        guest = Guest([os.dup(descriptor) for descriptor in attached.tap.fds])
        self.run(attached.close())
        self.ports[name or spec.vm_id] = attached
        self.ends[name or spec.vm_id] = guest
        return guest

    def detach(self, name: str) -> None:
        """End a guest and its port."""
        self.ends.pop(name).close()
        self.run(self.manager.detach(self.ports.pop(name).port))

    def sender(self, name: str) -> Sender:
        """Return an end that can send."""
        self._counters = None
        end = self.ends[name]
        assert isinstance(end, Wire | Guest)
        return end

    def token(self) -> bytes:
        """Return what no other frame of this lab has."""
        return b"lab" + next(self._numbers).to_bytes(5, "big")

    def follow(self, sender: str, *sent: Frame) -> dict[str, list[tuple[int, ...]]]:
        """Send frames from `sender`, and return where they arrived, with which VLAN tags.

        No time is guessed: a frame that is known to arrive follows on the same way. One CPU does
        all of this (`one_cpu`), so when that one is there, the others are there or nowhere.
        """
        self.drain()
        tokens = {self.token() for _ in sent}
        for frame, token in zip(sent, sorted(tokens), strict=True):
            self.sender(sender).send(frame.to_bytes(token), frame.header)
        seen = self._follow_up(sender)
        found: dict[str, list[tuple[int, ...]]] = {}
        for name, arrivals in seen.items():
            for arrival in arrivals:
                if arrival.token in tokens:
                    found.setdefault(name, []).append(_shown(arrival.tags))
        return found

    def _follow_up(self, sender: str) -> Mapping[str, list[Arrival]]:
        """Send a frame that must arrive, and return all that came until it did."""
        last = self.token()
        if sender == "uplink":
            frame, goal = frames.plain(OUTSIDE_MAC).tagged(30), "a1"
        else:
            spec = self.ports[sender].port
            frame, goal = frames.plain(spec.mac).tagged(*spec.trunk[:1]), "uplink"
        self.sender(sender).send(frame.to_bytes(last))
        seen: dict[str, list[Arrival]] = {name: [] for name in self.ends}

        def has_come() -> bool:
            seen[goal] += self.ends[goal].drain()
            return any(arrival.token == last for arrival in seen[goal])

        wait_until(has_come, f"a harmless frame from {sender} at {goal}", interval_s=0.001)
        for name, end in self.ends.items():
            seen[name] += end.drain()
        self._keep_noise(seen)
        return seen

    def drain(self) -> None:
        """Take from all ends what came by itself, and remember it as noise."""
        self._keep_noise({name: end.drain() for name, end in self.ends.items()})

    def _keep_noise(self, seen: Mapping[str, list[Arrival]]) -> None:
        for name, arrivals in seen.items():
            strange = [arrival for arrival in arrivals if not arrival.token.startswith(b"lab")]
            self._noise.setdefault(name, []).extend(strange)

    def noise(self, name: str) -> list[str]:
        """Return what `name` got and nobody here sent: the node's own words."""
        return [arrival.text for arrival in self._noise.pop(name, [])]

    def drops(self, name: str) -> dict[str, int]:
        """Return the drop counters of a port that are not zero."""
        # To list the filter is most of what a row of the matrix takes.
        if self._counters is None:
            self._counters = self.run(self.manager.counters())
        return {
            reason: packets
            for reason, packets in self._counters.get(self.ports[name].port.ifname, {}).items()
            if packets
        }

    def uplink_vlans(self) -> set[int]:
        """Return the VLANs that the uplink carries for VMs."""
        return vlans_of("bond0") - {MANAGEMENT}


def _shown(tags: tuple[Tag, ...]) -> tuple[int, ...]:
    return frames.vids(tags)


def port_spec(name: str, number: int, **settings: Any) -> PortSpec:
    """Return a port of a VM called `name`."""
    return PortSpec(
        vm_id=name,
        index=0,
        ifname=tap_name(name, 0),
        mac=f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}",
        **settings,
    )


@contextmanager
def one_cpu() -> Iterator[None]:
    """Keep this thread, and so the way of its frames through the kernel, on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def open_lab() -> Iterator[Lab]:
    """Build the lab; it is gone afterwards, whatever happened in it."""
    with private_network(), one_cpu(), asyncio.Runner() as runner:
        _build()
        lab = Lab(runner)
        lab.ends["uplink"] = Wire("node", namespace="sw1")
        lab.ends["node"] = Node(NODE_IP, NODE_PORT)
        try:
            runner.run(lab.manager.begin())
            yield lab
        finally:
            for end in lab.ends.values():
                end.close()
            runner.run(lab.manager.aclose())


def _build() -> None:
    ip("netns add sw1\nnetns add sw2\nnetns add lan")
    for namespace in ("sw1", "sw2", "lan"):
        with inside(namespace):
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    ip(_NODE)
    bridge(_NODE_VLANS)
    ip(
        """link add isl type veth peer name isl netns sw2
        link add lan type veth peer name wire netns lan""",
        namespace="sw1",
    )
    for switch, ports in (("sw1", ("node", "isl", "lan")), ("sw2", ("node", "isl"))):
        made = "link add sw type bridge vlan_filtering 1 mcast_snooping 0 forward_delay 0\n"
        made += "".join(f"link set {port} master sw up\n" for port in ports)
        ip(made + "link set sw up", namespace=switch)
        bridge("".join(f"vlan add dev {port} vid 2-4094\n" for port in ports), namespace=switch)
    ip("link set wire up", namespace="lan")
    wait_until(lambda: Path("/sys/class/net/bond0/carrier").read_text() == "1\n", "bond0's carrier")
    Path("/sys/class/net/bond0/bonding/active_slave").write_text("nic1")
