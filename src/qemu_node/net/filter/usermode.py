"""The text of the nftables table that keeps guests in user mode from reaching this node. Pure.

Owns the rules for connections that QEMU opens for a guest. Does not own loading them (`guard`) nor
the users that VMs run as.

QEMU's user-mode network (libslirp, sotranslate_out4 and sotranslate_out6 in src/socket.c) turns
10.0.2.2, 255.255.255.255 and fec0::2 into the node's loopback, and port 53 of 10.0.2.3 and fec0::3
into the first name server of /etc/resolv.conf. It does not change other addresses, and some of
them may be the node's own.
"""

import ipaddress
import re
from collections.abc import Iterable

FAMILY = "inet"

_NAME = re.compile(r"qn_user_([0-9]{1,10})_([0-9]{1,10})")


def table_name(uids: range) -> str:
    """Return the table's name. It depends on the users, so that two drivers need not share one."""
    return f"qn_user_{uids.start}_{len(uids)}"


def users_of_table(name: str) -> range | None:
    """Return the users that a table's name stands for; None if it is not a table of ours."""
    match = _NAME.fullmatch(name)
    return None if match is None else range(int(match[1]), int(match[1]) + int(match[2]))


def parse_resolvers(resolv_conf: str) -> list[str]:
    """Return the addresses of name servers in the text of /etc/resolv.conf (man 5 resolv.conf)."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                # A zone, as in fe80::1%eth0, is not part of the address in a packet.
                address = ipaddress.ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            found.append(str(address))
    return list(dict.fromkeys(found))


def table_text(uids: range, resolvers: Iterable[str], flags: str = "") -> str:
    """Return the commands that load the table, or replace its rules.

    What `uids` send to this node is refused, except DNS queries to `resolvers`, and answers: a TCP
    packet that does not open a connection belongs to one that another host opened to a forwarded
    port. The rules do not use connection tracking, which would track all of the node's traffic.
    Broadcast and multicast are refused, too, because they reach sockets of the node.

    Args:
        uids: The users that VMs run as.
        resolvers: The addresses of the node's name servers.
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
        # A packet without a socket, such as the kernel's own ICMP, has no user. So match the users
        # to refuse, not the users to accept.
        f"    meta skuid {uids.start}-{uids.stop - 1} goto guests\n"
        "  }\n"
        "}\n"
    )


def remove_text(uids: range) -> str:
    """Return the command that removes the table, which must exist."""
    return f"delete table {FAMILY} {table_name(uids)}\n"
