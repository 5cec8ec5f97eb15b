from hypothesis import given
from hypothesis import strategies as st

from qemu_node.net.mac import stable_mac


@given(st.text(), st.text(), st.integers(0, 7))
def test_a_mac_is_stable_unicast_and_locally_administered(
    alloc_id: str, task: str, nic: int
) -> None:
    mac = stable_mac(alloc_id, task, nic)
    assert mac == stable_mac(alloc_id, task, nic)
    octets = [int(octet, 16) for octet in mac.split(":")]
    assert len(octets) == 6
    assert octets[0] & 0x03 == 0x02


def test_tasks_nics_and_allocations_have_macs_of_their_own() -> None:
    macs = {
        stable_mac(alloc, task, nic)
        for alloc in ("a1", "a2")
        for task in ("vm", "db")
        for nic in range(4)
    }
    assert len(macs) == 16
