"""A table as a newer nft leaves it: made to persist, its owner gone.

Written into the kernel by hand, for an nft that knows neither flag. Numbers are those of
include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
"""

import socket
import struct

from qemu_node.net.netlink.messages import attribute

_NETLINK_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END, _NEWTABLE = 0x10, 0x11, 10 << 8
_SUBSYSTEM = 10
_TABLE_NAME, _TABLE_FLAGS = 1, 2
_OWNER_PERSIST = 0x2 | 0x4
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
FAMILIES = {"inet": 1, "bridge": 7}


def leave_persistent_table(family: str, name: str) -> bool:
    """Leave an empty table behind; False where this kernel cannot make tables persist."""
    table = struct.pack(">BBH", FAMILIES[family], 0, 0)
    table += attribute(_TABLE_NAME, name.encode() + b"\0")
    table += attribute(_TABLE_FLAGS, struct.pack(">I", _OWNER_PERSIST))
    edge = struct.pack(">BBH", 0, 0, _SUBSYSTEM)
    messages = (
        (_BATCH_BEGIN, _REQUEST, edge),
        (_NEWTABLE, _REQUEST | _ACK | _CREATE, table),
        (_BATCH_END, _REQUEST, edge),
    )
    data = b"".join(
        struct.pack("=IHHII", 16 + len(body), kind, flags, number, 0) + body
        for number, (kind, flags, body) in enumerate(messages)
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.settimeout(30)
        sock.bind((0, 0))
        sock.send(data)
        (code,) = struct.unpack_from("=i", sock.recv(4096), 16)
    return bool(code == 0)
