"""What the network's bench finds where it can measure: values that travel as JSON. Pure.

Owns their form. Does not own how they are measured (`ports`, `stop`, `flow`) nor the goals
(`network`).
"""

import msgspec


class PortTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Times of single ports, a sample each, in milliseconds."""

    attach_ms: list[float]
    """`PortManager.attach`."""
    bare_ms: list[float]
    """The bare calls, in turns with it."""
    detach_ms: list[float]
    """`PortManager.detach`."""


class StopTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Ends of VMs, a sample each, in milliseconds."""

    ports: int
    """How many ports a VM had."""
    with_ports_ms: list[float]
    """From the request to stop a VM to the answer; without vhost-net."""
    with_vhost_ms: list[float]
    """The same with vhost-net, whose descriptors QEMU closes itself."""
    without_ports_ms: list[float]
    """The same of a VM with as many NICs in user mode."""
    destroy_ms: list[float]
    """Closing so many TAPs, which returns when the kernel has destroyed them."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What passed from one namespace to the other, a sample a round."""

    with_table: list[float]
    without_table: list[float]


class WayRates(msgspec.Struct, frozen=True, kw_only=True):
    """What passed from one namespace to the other in one way, a sample a round."""

    tcp_mbit: list[float]
    tcp_cpu_s: list[float]
    """Of all CPUs, for a gigabit."""
    udp_packets: list[float]
    udp_cpu_s: list[float]
    """Of all CPUs, for a million datagrams that arrived."""


class NetworkRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the bench in a kernel that filters VLANs on bridges."""

    kernel: str
    ports: PortTimes
    stops: StopTimes
    tcp_mbit: Rates
    udp_packets: Rates
    """Datagrams of 64 bytes that arrived, a second."""
    ways: dict[str, WayRates]
    """By the names that `ways` has for them."""
