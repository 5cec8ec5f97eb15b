"""How many connections may be open, in all and of one address: pure.

Owns the limits. An address is an IPv4 address or the first 64 bits of an IPv6 one, which one
customer has. A connection that is refused is closed at once, so others get in.
"""

import functools
import ipaddress
from collections.abc import Iterable, Sequence

OPEN_MAX = 2000
"""Connections in all. Each takes 25 KiB."""
OPEN_OF_ONE_MAX = 500
"""Connections of one address; there may be an office behind it."""
OPENING_MAX = 400
"""Connections that have not said yet whether they speak TLS, or are at its handshake."""
OPENING_OF_ONE_MAX = 50


def may_open(
    address: str, *, opening: Sequence[str], is_open: Iterable[str], open_count: int
) -> bool:
    """Tell whether one more connection of `address` is accepted.

    Args:
        address: Of its other end.
        opening: The addresses of all that are being opened.
        is_open: The addresses of all that are open; looked at only if there are many.
        open_count: How many these are.
    """
    if len(opening) >= OPENING_MAX or open_count >= OPEN_MAX:
        return False
    network = network_of(address)
    if len(opening) >= OPENING_OF_ONE_MAX:
        of_one = sum(network_of(other) == network for other in opening)
        if of_one >= OPENING_OF_ONE_MAX:
            return False
    if open_count < OPEN_OF_ONE_MAX:
        return True
    return sum(network_of(other) == network for other in is_open) < OPEN_OF_ONE_MAX


@functools.lru_cache(maxsize=4 * OPEN_MAX)
def network_of(address: str) -> str:
    """Return what counts as one address. It is asked for each open connection at each new one."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))
