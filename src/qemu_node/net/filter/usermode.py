"""What guests in user mode may not reach: this very node. The text of one nftables table. Pure.

Owns the rules for connections that QEMU makes in a guest's name. Does not own loading them
(`manager`) nor the users that VMs run as.

QEMU's user-mode network (libslirp, sotranslate_out4 and sotranslate_out6 in src/socket.c) turns
10.0.2.2, 255.255.255.255 and fec0::2 into the node's loopback, and port 53 of 10.0.2.3 and fec0::3
into the first name server of /etc/resolv.conf. All other addresses stay what they are; among them
may be the node's own.
"""

import ipaddress
import re
from collections.abc import Iterable

FAMILY = "inet"

_NAME = re.compile(r"qn_user_([0-9]{1,10})_([0-9]{1,10})")


def table_name(uids: range) -> str:
    """Return the table's name: another for other users, so that two drivers need not share one."""
    return f"qn_user_{uids.start}_{len(uids)}"


def users_of_table(name: str) -> range | None:
    """Return the users of a table by its name; None if it is no table of ours."""
    match = _NAME.fullmatch(name)
    return None if match is None else range(int(match[1]), int(match[1]) + int(match[2]))


def parse_resolvers(resolv_conf: str) -> list[str]:
    """Return the addresses of name servers in the text of /etc/resolv.conf (man 5 resolv.conf)."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                # A zone, as of fe80::1%eth0, is none of an address in a packet.
                address = ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            found.append(str(address))
    return list(dict.fromkeys(found))


def table_text(uids: range, resolvers: Iterable[str], flags: str = "") -> str:
    """Return what makes the table, or makes it current.

    What users of `uids` send to this node itself is refused, but for questions to `resolvers`, and
    for answers: a packet of TCP that does not open a connection belongs to one that somebody else
    opened, to a forwarded port. Without connection tracking, which would begin to track all of the
    node's traffic. Broadcast and multicast reach sockets of the node as well.

    Args:
        uids: The users that VMs run as.
        resolvers: Addresses of name servers, on this node or elsewhere.
        flags: Flags of the table in nft's notation, such as `"owner, persist"`.
    """
    name = table_name(uids)
    declared = f"flags {flags};" if flags else ""
    allowed = "".join(
        f"    {'ip6' if ':' in resolver else 'ip'} daddr {resolver} "
        "meta l4proto { tcp, udp } th dport 53 accept\n"
        for resolver in resolvers
    )
    return (
        f"add table {FAMILY} {name} {{ {declared} }}\n"
        f"flush table {FAMILY} {name}\n"
        f"table {FAMILY} {name} {{ {declared}\n"
        "  chain refuse {\n"
        f"{allowed}"
        "    meta l4proto tcp tcp flags & (syn | ack) != syn accept\n"
        "    counter reject\n"
        "  }\n"
        "  chain guests {\n"
        '    oifname "lo" goto refuse\n'
        "    fib daddr type { local, broadcast, multicast, anycast } goto refuse\n"
        "  }\n"
        "  chain out {\n"
        "    type filter hook output priority filter; policy accept;\n"
        # A packet without a socket, as of the kernel's own ICMP, has no user: no rule that lets
        # other users pass would match it.
        f"    meta skuid {uids.start}-{uids.stop - 1} goto guests\n"
        "  }\n"
        "}\n"
    )


def remove_text(uids: range) -> str:
    """Return what removes the table, which must be there."""
    return f"delete table {FAMILY} {table_name(uids)}\n"
