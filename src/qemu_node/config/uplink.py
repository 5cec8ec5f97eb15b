"""`[uplink]` of node.toml: how the node is connected, by `bond0` and `br0` of `osimage/files`.

Owns the names, defaults and checks of these settings. Does not own what networkd is told because of
them (`nodeos.uplink`), nor the file of a node without /data (`uplinkfile`).
"""

import ipaddress
import re
from typing import Literal

import msgspec

from qemu_node.errors import ConfigError
from qemu_node.vlans import VID_MAX, VID_MIN, is_vid

UNTAGGED_VLAN = 4094
"""The node's own VLAN inside the node while the uplink carries it without a tag."""

# IPv6 needs 1280 (RFC 8200, 5); no NIC takes more than 9216 or so, and the kernel refuses the rest.
_MTU_MIN, _MTU_MAX = 1280, 65535

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9_.*?-]{0,14}")
_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})")


class UplinkVlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[uplink.vlans]]`: a further VLAN of the node, as the device `br0.<vlan>`."""

    vlan: int
    addresses: tuple[str, ...] = ()
    """With their prefix lengths, `"198.51.100.10/24"`."""
    dhcp: bool = False
    """Whether a DHCP server gives the address. Its routes and name servers are not used."""
    mtu: int = 0
    """0: that of `br0`."""


class UplinkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[uplink]`: the node's network cards, its own VLANs and addresses."""

    mode: Literal["active-backup", "lacp"] = "active-backup"
    """`lacp`: the switch ports are one link aggregation group."""
    nics: tuple[str, ...] = ()
    """The NICs of the bond: MAC addresses, PCI addresses or names with `*`. Empty: all physical
    NICs, except those on USB and virtual functions."""
    primary: str = ""
    """The NIC that active-backup prefers. Empty: the fastest; of those, the first by place."""
    mac: str = ""
    """The MAC address of `br0`. Empty: that of the first NIC by place."""
    vlan: int = 0
    """The node's own VLAN, if it has a tag on the uplink; 0: it has none."""
    mtu: int = 1500
    """The MTU of NICs, bond and bridge."""
    dhcp: bool = True
    """Whether DHCP gives the node an address and its name."""
    addresses: tuple[str, ...] = ()
    """Static addresses with their prefix lengths, `"192.0.2.10/24"`."""
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    vlans: tuple[UplinkVlan, ...] = ()

    @property
    def own_vid(self) -> int:
        """The VLAN of the node on the bridge."""
        return self.vlan or UNTAGGED_VLAN


def is_mac(word: str) -> bool:
    """Tell whether `word` is a MAC address."""
    return _MAC.fullmatch(word) is not None


def is_pci_address(word: str) -> bool:
    """Tell whether `word` is the address of a PCI function, such as `0000:03:00.1`."""
    return _PCI.fullmatch(word) is not None


def check_uplink(uplink: UplinkConfig) -> None:
    """Check what the types do not: settings that make no sense.

    Nothing that passes can end a line of a configuration file.

    Raises:
        ConfigError: a setting makes no sense; the message names it.
    """
    for word in uplink.nics:
        _check_nic("nics", word)
    if uplink.primary:
        _check_nic("primary", uplink.primary)
        if uplink.mode == "lacp":
            raise ConfigError("uplink.primary is for active-backup: LACP uses all NICs")
    if uplink.mac and not (is_mac(uplink.mac) and _is_unicast(uplink.mac)):
        raise ConfigError(f"uplink.mac is not the MAC address of a device: {uplink.mac!r}")
    if uplink.vlan and not is_vid(uplink.vlan):
        raise ConfigError(f"uplink.vlan must be 0 or {VID_MIN} to {VID_MAX}, not {uplink.vlan}")
    _check_mtu("uplink.mtu", uplink.mtu, _MTU_MAX)
    _check_addresses(uplink)
    if not uplink.dhcp and not uplink.addresses and not uplink.vlans:
        raise ConfigError(
            "uplink.dhcp = false and no uplink.addresses: nobody would reach the node"
        )
    _check_vlans(uplink)


def _check_addresses(uplink: UplinkConfig) -> None:
    for address in uplink.addresses:
        _check_interface("uplink.addresses", address)
    for name, values in (("gateways", uplink.gateways), ("dns", uplink.dns)):
        for value in values:
            try:
                ipaddress.ip_address(value)
            except ValueError:
                raise ConfigError(f"uplink.{name}: {value!r} is not an IP address") from None
            # ipaddress takes any text behind "%".
            if "%" in value:
                raise ConfigError(f"uplink.{name}: {value!r} has a scope", hint="leave it out")
    if uplink.gateways and not uplink.addresses:
        raise ConfigError("uplink.gateways needs uplink.addresses", hint="DHCP names its own")
    for domain in uplink.domains:
        if _DOMAIN.fullmatch(domain) is None:
            raise ConfigError(f"uplink.domains: {domain!r} is not a domain")


def _check_vlans(uplink: UplinkConfig) -> None:
    seen = {uplink.own_vid}
    for number, vlan in enumerate(uplink.vlans, start=1):
        name = f"uplink.vlans {number}"
        if not is_vid(vlan.vlan):
            raise ConfigError(f"{name}: vlan must be {VID_MIN} to {VID_MAX}, not {vlan.vlan}")
        if vlan.vlan in seen:
            raise ConfigError(
                f"{name}: the node has VLAN {vlan.vlan} already",
                hint=f"{UNTAGGED_VLAN} is its own VLAN while uplink.vlan is 0",
            )
        seen.add(vlan.vlan)
        if not vlan.addresses and not vlan.dhcp:
            raise ConfigError(f"{name}: VLAN {vlan.vlan} needs addresses, or dhcp = true")
        for address in vlan.addresses:
            _check_interface(f"{name}: addresses", address)
        if vlan.mtu:
            _check_mtu(f"{name}: mtu", vlan.mtu, uplink.mtu)


def _check_nic(name: str, word: str) -> None:
    if is_mac(word) or is_pci_address(word) or _NAME.fullmatch(word):
        return
    raise ConfigError(
        f"uplink.{name}: {word!r} is not a NIC",
        hint='write its MAC address, its PCI address "0000:03:00.0", or its name, such as "eno*"',
    )


def _is_unicast(mac: str) -> bool:
    return not int(mac[:2], 16) & 1 and mac.strip("0:") != ""


def _check_mtu(name: str, mtu: int, maximum: int) -> None:
    if not _MTU_MIN <= mtu <= maximum:
        raise ConfigError(f"{name} must be {_MTU_MIN} to {maximum}, not {mtu}")


def _check_interface(name: str, address: str) -> None:
    try:
        ipaddress.ip_interface(address)
    except ValueError:
        raise ConfigError(
            f"{name}: {address!r} is not an IP address", hint='write it as "192.0.2.10/24"'
        ) from None
    if "/" not in address or "%" in address:
        raise ConfigError(
            f"{name}: {address!r} has no prefix length", hint='write it as "192.0.2.10/24"'
        )
