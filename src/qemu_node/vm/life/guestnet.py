"""What a guest says of its network, and how much of it is believed.

Owns asking until the guest has an address, and which addresses others can reach it at. Does not own
the agent's protocol (`qga`) nor who is told (`nomad.task.advertise`, the command line).

A guest may claim any address. Only addresses of the NIC in question are accepted, and, where the
operator's policy limits the NIC's addresses, only those within the limit; the node's filter then
drops frames from all others.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from qemu_node.errors import GuestAgentError, HostError
from qemu_node.qga.agent import GuestAgent
from qemu_node.qga.replies import GuestInterface
from qemu_node.vm.record.record import NicRecord

log = logging.getLogger(__name__)

_ASK_TIMEOUT_S = 3.0
"""Others use the agent too, one at a time: a silent one is not waited for long."""
_HOST_NAME_MAX_CHARS = 64
"""HOST_NAME_MAX of Linux; Windows has fewer. A guest may say anything."""
_PAUSE_MIN_S, _PAUSE_MAX_S = 1.0, 15.0
_PAUSE_SHARE = 0.2
"""A pause is this part of the time that has passed: an address is noticed at most so much late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestNetwork:
    """What a guest says of itself, checked."""

    host_name: str
    addresses: tuple[str, ...]
    """Of the NICs in question, IPv4 first; those at which nobody can reach it are left out."""

    @property
    def has_ipv4(self) -> bool:
        """Whether one of the addresses is of IPv4."""
        return any("." in address for address in self.addresses)

    @classmethod
    def of(
        cls, host_name: str, interfaces: Sequence[GuestInterface], nics: Iterable[NicRecord]
    ) -> "GuestNetwork":
        """Return what is accepted of what a guest says about `nics`."""
        return cls(
            host_name=host_name[:_HOST_NAME_MAX_CHARS],
            addresses=tuple(
                address
                for nic in nics
                for address in addresses_of(interfaces, nic.mac, nic.addresses)
            ),
        )


def useful_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses at which others can reach the guest, IPv4 first; others are dropped."""
    parsed: set[IPv4Address | IPv6Address] = set()
    for text in addresses:
        try:
            address = ip_address(text.partition("/")[0])
        except ValueError:
            continue
        is_own = address.is_loopback or address.is_link_local or address.is_unspecified
        if not (is_own or address.is_multicast or address == IPv4Address("255.255.255.255")):
            parsed.add(address)
    return tuple(str(address) for address in sorted(parsed, key=lambda a: (a.version, int(a))))


def addresses_of(
    interfaces: Sequence[GuestInterface], mac: str, networks: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the addresses that the guest has on the NIC `mac`, of those that it may have.

    Args:
        interfaces: What the guest says.
        mac: The NIC's address; a bridge or bond in the guest may share it.
        networks: Networks that the addresses must be in; none: any will do.
    """
    claimed = [
        address for item in interfaces if item.mac == mac.lower() for address in item.addresses
    ]
    allowed = [ip_network(network) for network in networks]
    return tuple(
        text
        for text in useful_addresses(claimed)
        if not allowed or any(ip_address(text) in network for network in allowed)
    )


async def until_addressed(
    agent: GuestAgent, nics: Sequence[NicRecord], *, ipv4_wait_s: float = 0.0
) -> GuestNetwork:
    """Return what the guest says once one of `nics` has an address. Waits for ever: cancel it.

    The longer it takes the more rarely a guest is asked, so that one without an address stays idle.

    Args:
        agent: Whom to ask.
        nics: The NICs in question.
        ipv4_wait_s: How long an IPv6 address, which a guest has before DHCP answers, waits for an
            IPv4 one.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    addressed_at: float | None = None
    while True:
        try:
            interfaces = await agent.network_interfaces(timeout_s=_ASK_TIMEOUT_S)
            host_name = await agent.host_name(timeout_s=_ASK_TIMEOUT_S)
            found = GuestNetwork.of(host_name, interfaces, nics)
            if found.addresses:
                addressed_at = addressed_at or loop.time()
                if found.has_ipv4 or loop.time() >= addressed_at + ipv4_wait_s:
                    return found
        except (GuestAgentError, HostError) as exc:
            # HostError: the VM's directory, and the lock in it, may be on their way out.
            log.debug("guest does not tell its addresses yet", extra={"error": str(exc)})
        pause_s = (loop.time() - began) * _PAUSE_SHARE
        await asyncio.sleep(min(max(pause_s, _PAUSE_MIN_S), _PAUSE_MAX_S))
