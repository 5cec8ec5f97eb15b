import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemu_node.errors import JobError
from qemu_node.net.mac import check_unused, parse_mac, stable_mac


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


@pytest.mark.parametrize(
    ("text", "mac"),
    [
        ("52:54:00:AB:CD:EF", "52:54:00:ab:cd:ef"),
        (" 00-1B-21-3c-4d-5e ", "00:1b:21:3c:4d:5e"),
    ],
)
def test_a_mac_of_a_job_is_taken_in_either_notation(text: str, mac: str) -> None:
    assert parse_mac(text) == mac


@pytest.mark.parametrize(
    "text",
    [
        "", "52:54:00:12:34", "52:54:00:12:34:5g", "525400123456", "52:54:00:12:34:56:78",
        "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "52:54:00:12:34:56\n;",
        "\u06652:54:00:12:34:56",
    ],
)  # fmt: skip
def test_what_no_nic_can_have_is_refused(text: str) -> None:
    with pytest.raises(JobError, match="MAC address"):
        parse_mac(text)


@given(st.text(max_size=20))
def test_any_text_is_a_unicast_mac_or_refused(text: str) -> None:
    try:
        mac = parse_mac(text)
    except JobError:
        return
    assert int(mac[:2], 16) & 1 == 0
    assert parse_mac(mac) == mac


def test_a_mac_in_use_is_refused_with_its_owner() -> None:
    check_unused("52:54:00:00:00:01", {"52:54:00:00:00:02": "br0"})
    with pytest.raises(JobError, match="in use on this node by br0"):
        check_unused("52:54:00:00:00:02", {"52:54:00:00:00:02": "br0"})
