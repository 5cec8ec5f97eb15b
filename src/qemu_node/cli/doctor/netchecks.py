"""What VMs in VLANs need of the node's network, judged one thing at a time: pure.

Owns what is good enough, what is worth a warning, and what to do about it: docs/network.md says why
of each. Does not own finding out (`netfacts`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qemu_node.cli.doctor.checks import Check, fail, ok, warn
from qemu_node.config.network import NetworkConfig
from qemu_node.vlans import format_vlans

PAGE = "docs/network.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeState:
    """What a device is like as the VMs' bridge."""

    is_bridge: bool
    is_up: bool = False
    filters_vlans: bool = False
    snoops_multicast: bool = False
    default_pvid: int = 0
    has_own_address: bool = False
    """Its MAC address was set, and does not follow its ports'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkState:
    """What a device is like as the way out."""

    master: str
    """The bridge that it is a port of; empty: none."""
    has_carrier: bool = False
    miimon_ms: int | None = None
    """How often a bond looks at its NICs; None: it is no bond."""
    vids: frozenset[int] = frozenset()
    """The VLANs that it carries."""
    untagged: frozenset[int] = frozenset()
    """Those of them whose frames have no tag outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapUnit:
    """The unit of systemd-networkd that would apply to a VM's TAP."""

    path: str
    is_unmanaged: bool
    """It tells networkd to leave the device alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What this node's network is like."""

    bridge: BridgeState | None = None
    """None: there is no such device."""
    uplink: UplinkState | None = None
    """None: there is no such device."""
    bridge_netfilter: tuple[str, ...] = ()
    """The sysctls that send bridged frames through the node's own firewall."""
    tap_unit: TapUnit | None = None
    """None: networkd leaves TAPs alone."""
    has_nftables: bool = True
    has_vhost_net: bool = True
    missing_modules: tuple[str, ...] = ()
    """What this kernel lacks of the modules that strict ports need."""


def judge_network(
    config: NetworkConfig, facts: NetworkFacts, *, is_root: bool = True
) -> Iterator[Check]:
    """Yield the checks of everything that `[network]` makes necessary."""
    yield check_vhost_net(is_wanted=bool(config.bridge) and config.vhost == "auto",
                          exists=facts.has_vhost_net)  # fmt: skip
    if is_root and (config.bridge or not config.allow_host):
        yield check_nftables(exists=facts.has_nftables)
    if not config.bridge:
        yield ok("bridge", f"none in node.toml: user mode only; {PAGE} says how to have VLANs")
        return
    yield check_strict(facts.missing_modules)
    yield check_bridge(config.bridge, facts.bridge)
    if facts.bridge is not None and facts.bridge.is_bridge:
        yield check_vlan_filter(config.bridge, facts.bridge)
        yield check_multicast(config.bridge, facts.bridge)
        yield check_bridge_address(config.bridge, facts.bridge)
    yield check_uplink(config, facts.uplink)
    if facts.uplink is not None and facts.uplink.master == config.bridge:
        yield check_management(config, facts.uplink)
    yield check_bridge_netfilter(facts.bridge_netfilter)
    yield check_networkd(facts.tap_unit)
    yield check_policy(config)


def check_vhost_net(*, is_wanted: bool, exists: bool) -> Check:
    """Judge the kernel's part of fast network devices."""
    if exists:
        return ok("vhost-net", "/dev/vhost-net")
    if is_wanted:
        return warn("vhost-net", "not there: VMs' networks are slower", "modprobe vhost_net")
    return ok("vhost-net", "not loaded; user networks do without it")


def check_nftables(*, exists: bool) -> Check:
    """Judge the library that keeps guests from services of the node, and from false addresses."""
    if exists:
        return ok("nftables", "libnftables")
    return fail("nftables", "libnftables.so.1 is not installed", "apt install libnftables1")


def check_strict(missing: Sequence[str]) -> Check:
    """Judge whether the kernel can finish what guests leave to others."""
    if missing:
        return fail(
            "strict ports",
            f"this kernel has no {', '.join(missing)}: no VM starts where namespaces share a VLAN",
            "use a kernel that has, or strict = false in the rules of [[network.policy]]",
        )
    return ok("strict ports", "the kernel can finish guests' checksums")


def check_bridge(name: str, state: BridgeState | None) -> Check:
    """Judge whether the bridge is one."""
    if state is None:
        return fail("bridge", f"{name} does not exist", f"make it as {PAGE} says")
    if not state.is_bridge:
        return fail("bridge", f"{name} is not a bridge", "correct network.bridge in node.toml")
    if not state.is_up:
        return fail("bridge", f"{name} is down", f"ip link set {name} up")
    return ok("bridge", name)


def check_vlan_filter(name: str, state: BridgeState) -> Check:
    """Judge whether the bridge keeps VLANs apart, and gives new ports none."""
    if not state.filters_vlans:
        return fail(
            "VLANs",
            f"{name} does not filter VLANs: all its ports share one network",
            f"ip link set {name} type bridge vlan_filtering 1 vlan_default_pvid 0",
        )
    if state.default_pvid:
        return warn(
            "VLANs",
            f"{name} puts each new port into VLAN {state.default_pvid}, until it is taken out",
            f"ip link set {name} type bridge vlan_default_pvid 0; DefaultPVID=none for networkd",
        )
    return ok("VLANs", "filtered; new ports are in none")


def check_multicast(name: str, state: BridgeState) -> Check:
    """Judge whether one guest can keep multicast from others."""
    if state.snoops_multicast:
        return fail(
            "multicast",
            f"{name} snoops: after one query of a guest, IPv6 of others is lost in all VLANs",
            f"ip link set {name} type bridge mcast_snooping 0; MulticastSnooping=no for networkd",
        )
    return ok("multicast", "forwarded to all of a VLAN")


def check_bridge_address(name: str, state: BridgeState) -> Check:
    """Judge whether VMs can change the address of the node itself."""
    if not state.has_own_address:
        return warn(
            "bridge MAC",
            f"that of {name} is its lowest port's: a VM can change the node's address",
            "set MACAddress= in its .netdev, or `ip link set address`",
        )
    return ok("bridge MAC", "fixed")


def check_uplink(config: NetworkConfig, state: UplinkState | None) -> Check:
    """Judge the way out of the node."""
    name = config.uplink
    if not name:
        return ok("uplink", "none in node.toml: VMs reach VMs of this node only")
    if state is None:
        return fail("uplink", f"{name} does not exist", f"make it as {PAGE} says")
    if state.master != config.bridge:
        where = f"a port of {state.master}" if state.master else "no port of any bridge"
        return fail(
            "uplink",
            f"{name} is {where}, not of {config.bridge}",
            f"ip link set {name} master {config.bridge}; Bridge={config.bridge} for networkd",
        )
    if not state.has_carrier:
        return warn("uplink", f"{name} has no link", "look at cables and the switch")
    if state.miimon_ms == 0:
        return warn(
            "uplink",
            f"{name} never looks whether its NICs have a link: it does not fail over",
            "MIIMonitorSec=100ms in its .netdev",
        )
    return ok("uplink", name)


def check_management(config: NetworkConfig, state: UplinkState) -> Check:
    """Judge whether the node's own VLAN is the one that jobs are refused."""
    vid = config.management_vlan
    if vid and vid not in state.vids:
        return warn(
            "node's VLAN",
            f"{config.uplink} does not carry {vid}: nobody reaches the node this way",
            "systemctl restart qemu-node-uplink, or correct network.management_vlan in node.toml",
        )
    others = state.untagged - {vid, 1}
    if others:
        return warn(
            "node's VLAN",
            f"{config.uplink} carries {format_vlans(others)} untagged, which node.toml does not "
            "call the node's own: jobs may ask for it",
            f"network.management_vlan = {min(others)} in node.toml",
        )
    return ok("node's VLAN", f"{vid}, refused to jobs" if vid else "none that a VM could have")


def check_bridge_netfilter(switched_on: Sequence[str]) -> Check:
    """Judge whether rules made for the node itself apply to frames between VMs."""
    if switched_on:
        return warn(
            "firewall",
            f"br_netfilter is loaded and {', '.join(switched_on)} on: the node's own rules, "
            "Docker's for one, drop frames of VMs",
            "sysctl -w " + " ".join(f"net.bridge.{name}=0" for name in switched_on),
        )
    return ok("firewall", "the node's own rules do not apply to VMs' frames")


def check_networkd(tap_unit: TapUnit | None) -> Check:
    """Judge whether systemd-networkd would take VMs' ports out of the bridge."""
    if tap_unit is None:
        return ok("networkd", "no unit matches the VMs' TAPs")
    if tap_unit.is_unmanaged:
        return ok("networkd", f"leaves TAPs alone: {tap_unit.path}")
    return warn(
        "networkd",
        f"{tap_unit.path} matches the VMs' TAPs: networkd takes them out of the bridge at its next "
        "reload",
        "let 00-qn-ports.network of osimage/files be there, and sort before that unit",
    )


def check_policy(config: NetworkConfig) -> Check:
    """Judge whether any job may use a VLAN."""
    allowed = {vid for rule in config.policy for vid in rule.vids} - {config.management_vlan}
    if allowed:
        return ok("policy", f"jobs may use VLANs {format_vlans(allowed)}")
    if config.default_vlan:
        return ok("policy", f"VMs are in VLAN {config.default_vlan}; no job may choose")
    return warn(
        "policy",
        "no rule: jobs may use no VLAN",
        f"add [[network.policy]] to node.toml, see {PAGE}",
    )
