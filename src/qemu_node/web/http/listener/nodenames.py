"""What this node is called and where it is reached, as its own system says.

Owns asking the kernel and resolv.conf. No name server is asked.
"""

import functools
import ipaddress
import re
import socket
import time
from pathlib import Path

from qemu_node.host.files.reading import read_or_empty

_FRESH_S = 30.0
_RESOLV_CONF = Path("/etc/resolv.conf")
_DOMAIN = re.compile(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){0,10}")
_INTERNET = ("192.0.2.1", "2001:db8::1")


def own_names() -> list[str]:
    """Return the host name, also with each of the domains in which this node looks names up.

    The answer is as it was within the last half minute: each request asks.
    """
    return _names_at(int(time.monotonic() / _FRESH_S))


@functools.lru_cache(maxsize=1)
def _names_at(_time: int) -> list[str]:
    return names_of(socket.gethostname(), read_or_empty(_RESOLV_CONF))


def names_of(host_name: str, resolv_conf: str) -> list[str]:
    """Return all names of a host: pure.

    Args:
        host_name: With a domain or without.
        resolv_conf: The file's text (man 5 resolv.conf).
    """
    full = host_name.lower()
    if not full:
        return []
    short = full.partition(".")[0]
    domains = [
        word.strip(".")
        for line in resolv_conf.lower().splitlines()
        if line.startswith(("search ", "domain "))
        for word in line.split()[1:]
    ]
    found = [full, short, *(f"{short}.{d}" for d in domains if _DOMAIN.fullmatch(d))]
    return list(dict.fromkeys(found))


def own_addresses() -> list[str]:
    """Return the addresses from which this node would reach others. Nothing is sent."""
    found = []
    for target in _INTERNET:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((target, 9))
                found.append(str(sock.getsockname()[0]))
        except OSError:
            continue
    return [address for address in found if not ipaddress.ip_address(address).is_link_local]
