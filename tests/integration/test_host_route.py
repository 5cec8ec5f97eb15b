"""The kernel's routing table, in a network namespace of our own."""

import sys
from ipaddress import ip_address

import pytest

from qemu_node.host.process import command
from qemu_node.host.route import is_own_address

_SCRIPT = """
ip link set lo up
ip addr add 192.0.2.1/24 dev lo
ip addr add 192.0.2.2/24 dev lo
ip -6 addr add 2001:db8::1/128 dev lo
ip route add local 198.51.100.0/24 dev lo
exec "$@"
"""

_ASK = """
import sys
from ipaddress import ip_address
from qemu_node.host.route import is_own_address
print(*(int(is_own_address(ip_address(text))) for text in sys.argv[1:]))
"""


def test_loopback_is_this_host() -> None:
    assert is_own_address(ip_address("127.0.0.1"))
    assert is_own_address(ip_address("127.5.5.5"))


@pytest.mark.needs_root
async def test_addresses_of_interfaces_and_local_routes_are_this_host() -> None:
    own = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "198.51.100.77"]
    foreign = ["203.0.113.2", "2001:db8::2", "203.0.113.1", "2001:db8:1::1"]
    done = await command.run(
        ["unshare", "-n", "sh", "-ec", _SCRIPT, "sh", sys.executable, "-c", _ASK, *own, *foreign]
    )
    assert done.stdout.split() == [b"1"] * len(own) + [b"0"] * len(foreign)
