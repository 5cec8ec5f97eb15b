"""The networks of these tests: the lab, one for each module, and a plain bridge with an uplink."""

from collections.abc import Iterator

import pytest
from integration.crashing_driver import NETWORK
from network.lab import Lab, open_lab
from network.namespaces import ip, private_network


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with open_lab() as built:
        yield built


@pytest.fixture
def vlan_bridge() -> Iterator[None]:
    """Give the test the bridge and the uplink of `NETWORK`; `outside` is the uplink's other end."""
    with private_network():
        ip(f"""link add {NETWORK.bridge} type bridge vlan_filtering 1 vlan_default_pvid 0 \
mcast_snooping 0
            link add {NETWORK.uplink} type veth peer name outside
            link set {NETWORK.uplink} master {NETWORK.bridge}
            link set {NETWORK.bridge} up
            link set {NETWORK.uplink} up
            link set outside up""")
        yield
