"""`[network]` of node.toml: the node's bridge, and which jobs may use which VLAN.

Owns the names, defaults and checks of these settings.
"""

import ipaddress
import re
from typing import Literal

import msgspec

from qemu_node.errors import ConfigError
from qemu_node.vlans import VID_MAX, VID_MIN, is_vid, parse_vlans

# The kernel allows more (dev_valid_name in net/core/dev.c). These names never need quoting and
# cannot be taken for an option.
_IFNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")


class NetworkPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[network.policy]]`: what jobs of some namespaces may have."""

    namespaces: tuple[str, ...]
    """Nomad namespaces; `*` stands for any characters, `?` for one."""
    vlans: tuple[str, ...]
    """Numbers and ranges, `"100-199"`."""
    trunk: bool = False
    """Whether a NIC may carry several tagged VLANs."""
    mac: bool = False
    """Whether a job may choose a NIC's MAC address."""
    addresses: tuple[str, ...] = ()
    """Networks in which the VMs' IP source addresses must be; empty for any address."""
    strict: bool | None = None
    """Whether the node completes the VMs' checksums before it filters; None: if namespaces share a
    VLAN."""

    @property
    def vids(self) -> frozenset[int]:
        """`vlans` as numbers."""
        return parse_vlans(self.vlans)


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[network]`: the node's bridge, and which jobs may use which VLAN."""

    bridge: str = ""
    """The bridge with VLAN filtering for VMs; empty for user mode only."""
    uplink: str = ""
    """The bridge's port that leads out of the node; empty if VMs only reach each other."""
    default_vlan: int = 0
    """The VLAN of VMs whose job names none, in any namespace; 0: they get user mode."""
    management_vlan: int = 0
    """The node's own VLAN, which no VM gets; 0 if the node's frames are in none."""
    allow_host: bool = False
    """Whether guests in user mode may reach services of this node."""
    vhost: Literal["auto", "off"] = "auto"
    """`auto`: the kernel moves frames between TAP and guest (vhost-net) where it can."""
    policy: tuple[NetworkPolicy, ...] = ()

    @property
    def vids(self) -> frozenset[int]:
        """The VLANs that VMs can have."""
        given = frozenset[int]().union(*(rule.vids for rule in self.policy))
        return (given | {self.default_vlan}) - {0, self.management_vlan}


def check_network(network: NetworkConfig) -> None:
    """Check what the types do not: settings that make no sense.

    Raises:
        ConfigError: a setting makes no sense; the message names it.
    """
    for name, value in (("bridge", network.bridge), ("uplink", network.uplink)):
        if value and _IFNAME.fullmatch(value) is None:
            raise ConfigError(
                f"network.{name} is not the name of a network interface: {value!r}",
                hint="at most 15 letters, digits, dots, dashes and underscores",
            )
    if not network.bridge and (network.uplink or network.default_vlan):
        raise ConfigError("network.uplink and network.default_vlan need a network.bridge")
    for name, vid in (
        ("default_vlan", network.default_vlan),
        ("management_vlan", network.management_vlan),
    ):
        if vid and not is_vid(vid):
            raise ConfigError(f"network.{name} must be 0 or {VID_MIN} to {VID_MAX}, not {vid}")
    if network.default_vlan and network.default_vlan == network.management_vlan:
        raise ConfigError("network.default_vlan is the network.management_vlan")
    for number, rule in enumerate(network.policy, start=1):
        try:
            _ = rule.vids, [ipaddress.ip_network(address) for address in rule.addresses]
        except (ConfigError, ValueError) as exc:
            hint = exc.hint if isinstance(exc, ConfigError) else 'write it as "10.20.0.0/16"'
            raise ConfigError(f"network.policy {number}: {exc}", hint=hint) from exc
        if not rule.namespaces or not rule.vlans:
            raise ConfigError(f"network.policy {number} has no namespaces or no vlans")
