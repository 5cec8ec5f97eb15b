"""To which addresses the node connects for an image.

A job's author names the host, a server names the next one in a redirect, and a name server gives
their addresses. So each connection is checked by its address: a name may have another address at
the second look-up.

Owns that check (pure) and the hook by which aiohttp calls it. Does not own which sources may be
named (`source.allowlist`).
"""

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any

from qemu_node.errors import ConfigError
from qemu_node.host.route import is_own_address

Address = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_THIS_NETWORK = ip_network("0.0.0.0/8")  # RFC 1122, 3.2.1.3: for Linux 0.0.0.0 is loopback.
_BROADCAST = ip_address("255.255.255.255")
# Instance metadata, which gives out the machine's credentials, where it is not link-local: AWS and
# Google over IPv6, Alibaba, Oracle, Azure's host agent. From the vendors' manuals.
_METADATA = frozenset(
    map(
        ip_address,
        ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    )
)
# RFC 6052, 2.1 and RFC 8215: IPv4 addresses behind a NAT64 of this network.
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_COMPATIBLE = IPv6Network("::/96")  # RFC 4291, 2.5.5.1


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPolicy:
    """The operator's networks, in addition to the addresses that are always refused."""

    allow: tuple[IPNetwork, ...] = ()
    """Never refused."""
    refuse: tuple[IPNetwork, ...] = ()
    """Refused unless in `allow`."""

    def reason_against(
        self, address: Address, is_own: Callable[[Address], bool] = is_own_address
    ) -> str | None:
        """Return why the node must not connect to `address`; None if it may.

        `is_own` tells whether an address is this host's.
        """
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        address = mapped or address
        if _is_in(address, self.allow):
            return None
        # An IPv4 address inside an IPv6 one leads to the same host.
        for meant in (address, *_embedded(address)):
            reason = self._reason(meant, is_own)
            if reason is not None and not _is_in(meant, self.allow):
                return reason
        return None

    def _reason(self, address: Address, is_own: Callable[[Address], bool]) -> str | None:
        if address.is_loopback:
            return "a loopback address"
        if address.is_unspecified or address in _THIS_NETWORK:
            return "not the address of a host"
        if address in _METADATA:
            return "an address of instance metadata"
        if address.is_link_local:
            return "a link-local address"
        if address.is_multicast or address == _BROADCAST:
            return "a multicast address"
        if _is_in(address, self.refuse):
            return "in images.refuse_networks"
        return "an address of this node" if is_own(address) else None


ANYWHERE = AddressPolicy(allow=(ip_network("0.0.0.0/0"), ip_network("::/0")))
"""For an address that the operator has named, and no author of a job."""


def parse_networks(texts: Iterable[str], setting: str) -> tuple[IPNetwork, ...]:
    """Return the networks that `texts` name: `"10.0.0.0/8"`, `"fd00::/8"`, or single addresses.

    Raises:
        ConfigError: one is not a network; the message names `setting`.
    """
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text.strip()))
        except ValueError as exc:
            raise ConfigError(
                f"{setting}: {text!r} is not a network",
                hint='write it as "10.0.0.0/8" or "fd00::/8"',
            ) from exc
    return tuple(networks)


class AddressRefusedError(OSError):
    """The address must not be connected to. An OSError: aiohttp handles no other error here."""


class Guard:
    """Checks the connections of one request."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._is_proxied = False
        self.refused: str | None = None
        """The last address that was refused, and why."""

    def prepare(self, host: str, *, is_proxied: bool) -> str | None:
        """Prepare for a connection for `host`; return an address that is refused, and why.

        The address of a proxy is the operator's choice and is not checked. The proxy looks up the
        names of hosts, so only a host that is written as an address can be checked.
        """
        self._is_proxied = is_proxied
        if not is_proxied:
            return None
        try:
            address = ip_address(host.strip("[]"))
        except ValueError:
            return None
        reason = self._policy.reason_against(address)
        return None if reason is None else f"{address}, {reason}"

    def make_socket(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """Return a socket for the address in `addr_info`, to which aiohttp connects it next.

        The `socket_factory` of aiohttp's connector, which calls it for each address of each hop.

        Raises:
            AddressRefusedError: the policy refuses it.
        """
        family, kind, protocol, _, sockaddr = addr_info
        address = ip_address(sockaddr[0])
        reason = None if self._is_proxied else self._policy.reason_against(address)
        if reason is not None:
            self.refused = f"{address}, {reason}"
            raise AddressRefusedError(f"{address} is {reason}")
        return socket.socket(family, kind, protocol)


def _embedded(address: Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses to which a packet for `address` may be delivered."""
    if isinstance(address, IPv4Address):
        return ()
    found = [address.sixtofour]
    if any(address in network for network in (*_NAT64, _COMPATIBLE)) and int(address) > 1:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    if address.teredo is not None:
        found.extend(address.teredo)
    return tuple(embedded for embedded in found if embedded is not None)


def _is_in(address: Address, networks: tuple[IPNetwork, ...]) -> bool:
    return any(address in network for network in networks)
