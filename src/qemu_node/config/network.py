"""`[network]` of node.toml: the node's bridge, and who may use which VLAN of it.

Owns the names, defaults and checks of these settings.
"""

import ipaddress
import re
from typing import Literal

import msgspec

from qemu_node.errors import ConfigError
from qemu_node.vlans import VID_MAX, VID_MIN, is_vid, parse_vlans

# What the kernel takes as a name (dev_valid_name in net/core/dev.c) is more; this much needs no
# quoting anywhere and cannot be mistaken for an option.
_IFNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")


class NetworkPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[network.policy]]`: what jobs of some namespaces may ask of the network."""

    namespaces: tuple[str, ...]
    """Nomad namespaces; `*` and `?` stand for any characters, any one character."""
    vlans: tuple[str, ...]
    """Numbers and ranges, `"100-199"`."""
    trunk: bool = False
    """Whether a NIC may carry several VLANs, tagged."""
    mac: bool = False
    """Whether a job may choose a NIC's address."""
    addresses: tuple[str, ...] = ()
    """Networks that the VMs' IP source addresses must be in; none given: any address."""
    strict: bool | None = None
    """Whether the node finishes the VMs' checksums before it filters; None: where namespaces share
    a VLAN."""

    @property
    def vids(self) -> frozenset[int]:
        """`vlans` as numbers."""
        return parse_vlans(self.vlans)


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[network]`: the node's bridge, and who may use which VLAN of it."""

    bridge: str = ""
    """The bridge with VLAN filtering that VMs are ports of; empty: user mode only."""
    uplink: str = ""
    """The bridge's port that leads out of the node; empty: VMs of this node among themselves."""
    default_vlan: int = 0
    """VLAN of VMs whose job names none, whatever their namespace; 0: these get user mode."""
    management_vlan: int = 0
    """The node's own VLAN, refused to every VM; 0: the node's own frames are in none."""
    allow_host: bool = False
    """Whether guests in user mode may reach services of this very node."""
    vhost: Literal["auto", "off"] = "auto"
    """`auto`: the kernel moves frames between TAP and guest (vhost-net) where it can."""
    policy: tuple[NetworkPolicy, ...] = ()

    @property
    def vids(self) -> frozenset[int]:
        """The VLANs that VMs can be given."""
        given = frozenset[int]().union(*(rule.vids for rule in self.policy))
        return (given | {self.default_vlan}) - {0, self.management_vlan}


def check_network(network: NetworkConfig) -> None:
    """Check that a bridge can follow these settings.

    Raises:
        ConfigError: one makes no sense; it is named.
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
