"""What networkd and the unit of the uplink are told: pure.

The files of `osimage/files` below /usr/lib/systemd/network are the node's network as it is without
settings; what is made here goes to /run and changes only what the settings and this machine ask for
(systemd.network(5), systemd.netdev(5)). An operator's file of the same name in /etc has precedence.
"""

import ipaddress
from collections.abc import Iterable, Mapping

from qemu_node.config.uplink import UNTAGGED_VLAN, UplinkConfig, UplinkVlan, is_mac, is_pci_address
from qemu_node.nodeos.uplink.choice import Choice

HEADER = "# Written at boot by `qemu-node os network`, which `[uplink]` tells what to write.\n"
"""The first line of each file: what has it may be removed at the next boot."""

UPLINK_ENV = "uplink.env"
"""The environment of qemu-node-uplink.service."""

# As in 30-bond0-ports.network.
_PHYSICAL = ["Type=ether", "Kind=!*"]
PORT = ("Bond=bond0", "LinkLocalAddressing=no", "LLDP=yes", "EmitLLDP=nearest-bridge")
"""[Network] of a NIC of the bond."""

# 802.3ad: of ports that form several groups the fastest one is used, and a port whose switch does
# not speak LACP still works alone: Documentation/networking/bonding.rst, ad_select.
_LACP = [
    "Mode=802.3ad",
    "LACPTransmitRate=fast",
    "TransmitHashPolicy=layer3+4",
    "AdSelect=bandwidth",
    "MinLinks=1",
]


def network_files(settings: UplinkConfig, choice: Choice) -> dict[str, str]:
    """Return the files for /run/systemd/network by their names.

    Args:
        settings: The operator's.
        choice: What was decided about this machine's NICs.
    """
    files: dict[str, list[str]] = {}
    if choice.mac:
        for device in ("br0", "bond0"):
            files[f"20-{device}.netdev.d/50-address.conf"] = _section(
                "NetDev", [f"MACAddress={choice.mac}"]
            )
    if settings.mode == "lacp":
        files["20-bond0.netdev.d/50-lacp.conf"] = _section("Bond", _LACP)
    files |= _port_files(settings, choice)
    if settings.mtu != UplinkConfig().mtu:
        mtu = _section("Link", [f"MTUBytes={settings.mtu}"])
        files |= {f"{name}.network.d/50-mtu.conf": mtu for name in ("40-bond0", "40-br0")}
    if _changes_bridge(settings):
        files["40-br0.network"] = bridge_network(settings)
    for vlan in settings.vlans:
        files |= _vlan_files(vlan)
    return {name: HEADER + "\n".join(lines).strip() + "\n" for name, lines in files.items()}


def environment(settings: UplinkConfig) -> str:
    """Return the environment of join-uplink: the VLANs of the node on its uplink."""
    flags = "pvid untagged" if settings.own_vid == UNTAGGED_VLAN else ""
    more = " ".join(str(vlan.vlan) for vlan in settings.vlans)
    return f'{HEADER}VLAN={settings.own_vid}\nFLAGS="{flags}"\nMORE="{more}"\n'


def bridge_network(settings: UplinkConfig) -> list[str]:
    """Return 40-br0.network: the node itself."""
    addresses = [f"Address={_interface(address)}" for address in settings.addresses]
    network = [f"DHCP={'yes' if settings.dhcp else 'no'}", "KeepConfiguration=dynamic-on-stop"]
    network += addresses
    network += [f"Gateway={gateway}" for gateway in settings.gateways]
    network += [f"DNS={server}" for server in settings.dns]
    network += [f"Domains={domain}" for domain in settings.domains]
    network += [f"VLAN={device_of(vlan)}" for vlan in settings.vlans]
    vid = settings.own_vid
    vlans = [f"VLAN={vid}", f"PVID={vid}", f"EgressUntagged={vid}"]
    vlans += [f"VLAN={vlan.vlan}" for vlan in settings.vlans]
    return [
        *_section("Match", ["Name=br0"]),
        *_section("Link", ["MTUBytes=1500", "RequiredForOnline=routable"]),
        *_section("Network", network),
        *_section("BridgeVLAN", vlans),
        *_section("DHCPv4", ["ClientIdentifier=mac", "UseHostname=yes", "UseDomains=yes"]),
    ]


def device_of(vlan: UplinkVlan) -> str:
    """Return the name of the node's device in a further VLAN."""
    return f"br0.{vlan.vlan}"


def port_network(match: Iterable[str], network: Iterable[str], mtu: int = 0) -> list[str]:
    """Return a file for NICs of the bond."""
    link = ["RequiredForOnline=no"]
    link += [f"MTUBytes={mtu}"] if mtu else []
    return [*_section("Match", match), *_section("Link", link), *_section("Network", network)]


def _port_files(settings: UplinkConfig, choice: Choice) -> dict[str, list[str]]:
    """Return the files for NICs: a file cannot match by one thing or another."""
    mtu = settings.mtu if settings.mtu != UplinkConfig().mtu else 0
    files: dict[str, list[str]] = {}
    if choice.primary:
        # It sorts before the file that all NICs match.
        match = [*_PHYSICAL, *_match([choice.primary])]
        files["29-bond0-primary.network"] = port_network(match, [*PORT, "PrimarySlave=yes"], mtu)
    if not choice.takes_all:
        kinds = {
            "30-bond0-ports": [word for word in settings.nics if is_mac(word)],
            "31-bond0-ports": [word for word in settings.nics if is_pci_address(word)],
            "32-bond0-ports": [
                word for word in settings.nics if not is_mac(word) and not is_pci_address(word)
            ],
        }
        for name, words in kinds.items():
            # The first one always: it is instead of the file with all NICs.
            match = _match(words) if words else ["Name=none.none"]
            if words or name == "30-bond0-ports":
                files[f"{name}.network"] = port_network([*_PHYSICAL, *match], PORT, mtu)
        return files
    if mtu:
        files["30-bond0-ports.network.d/50-mtu.conf"] = _section("Link", [f"MTUBytes={mtu}"])
    return files


def _match(words: list[str]) -> list[str]:
    """Return the condition for NICs that are named in one of the three ways."""
    if is_mac(words[0]):
        return [f"PermanentMACAddress={' '.join(word.lower() for word in words)}"]
    if is_pci_address(words[0]):
        # udev's ID_PATH, which may begin with another bus than PCI.
        return [f"Path={' '.join(f'pci-{word.lower()} *-pci-{word.lower()}' for word in words)}"]
    return [f"Name={' '.join(words)}"]


def _changes_bridge(settings: UplinkConfig) -> bool:
    return bridge_network(settings) != bridge_network(UplinkConfig())


def _vlan_files(vlan: UplinkVlan) -> dict[str, list[str]]:
    name = device_of(vlan)
    network = [f"DHCP={'yes' if vlan.dhcp else 'no'}", "LinkLocalAddressing=ipv6"]
    network += [f"Address={_interface(address)}" for address in vlan.addresses]
    # The way to everywhere else is the node's own VLAN.
    network += [f"IPv6AcceptRA={'yes' if vlan.dhcp else 'no'}"]
    link = ["RequiredForOnline=no"]
    link += [f"MTUBytes={vlan.mtu}"] if vlan.mtu else []
    ignored = ["UseGateway=no", "UseDNS=no", "UseDomains=no"]
    return {
        f"20-{name}.netdev": [
            *_section("NetDev", [f"Name={name}", "Kind=vlan"]),
            *_section("VLAN", [f"Id={vlan.vlan}"]),
        ],
        f"40-{name}.network": [
            *_section("Match", [f"Name={name}"]),
            *_section("Link", link),
            *_section("Network", network),
            *_section("DHCPv4", ["ClientIdentifier=mac", "UseHostname=no", "UseNTP=no", *ignored]),
            *_section("IPv6AcceptRA", ignored),
        ],
    }


def _interface(address: str) -> str:
    """Return an address as networkd reads it: with the number of the prefix's bits."""
    return ipaddress.ip_interface(address).with_prefixlen


def _section(name: str, lines: Iterable[str]) -> list[str]:
    return [f"[{name}]", *lines, ""]


def stale(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return which of the files `found`, by name, were written by an earlier run and must go."""
    return sorted(
        name for name, text in found.items() if name not in wanted and text.startswith(HEADER)
    )
