from qemu_node.net.announce import frames
from qemu_node.net.portspec import PortSpec

MAC = "02:00:00:00:00:a1"


def port(**vlans: object) -> PortSpec:
    return PortSpec(vm_id="web", index=0, ifname="qn0", mac=MAC, **vlans)  # type: ignore[arg-type]


def test_a_port_is_announced_from_its_address_in_each_of_its_vlans() -> None:
    found = frames(port(vlan=None, trunk=(30, 40)), frozenset())
    assert {frame[12:16] for frame in found} == {b"\x81\0\0\x1e", b"\x81\0\0\x28"}
    for frame in found:
        assert frame[:12] == b"\xff" * 6 + bytes.fromhex(MAC.replace(":", ""))
        assert frame[16:18] == b"\x80\x35"
        assert len(frame) == 60


def test_a_vlan_without_a_tag_on_the_uplink_is_announced_without_one() -> None:
    [frame] = frames(port(vlan=30), frozenset((30,)))
    assert frame[12:14] == b"\x80\x35"


def test_an_announcement_says_no_ip_address() -> None:
    [frame] = frames(port(vlan=30), frozenset())
    body = frame[18:46]
    assert body[:8] == b"\0\1\x08\0\6\4\0\3"
    assert body[14:18] == body[24:28] == bytes(4)
