"""Ports whose frames are finished before the filter looks: whole, in order, and never without."""

import fcntl
import socket
import struct
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from network import frames
from network.facts import taps, wait_until
from network.frames import GSO_TCP4, Frame
from network.lab import Lab, port_spec
from network.namespaces import ip
from network.wire import Arrival, Guest

from qemu_node.host.process.command import run_blocking
from qemu_node.net.errors import NetworkError
from qemu_node.net.port.checksums import DEVICE
from qemu_node.net.portspec import PortSpec

pytestmark = [pytest.mark.needs_vlans, pytest.mark.timeout(300)]

PORT = port_spec("strict", 1, vlan=30, strict=True)
PINNED = port_spec("pinned", 2, vlan=None, trunk=(30,), strict=True, addresses=("10.30.0.0/29",))
LIE = frames.arp(PORT.mac, PORT.mac, "10.30.0.1", "10.30.0.2").forging(26, 0xFFFF)
TRUTH = frames.arp(PORT.mac, PORT.mac, "10.30.0.1", "10.30.0.2")
PAYLOAD = bytes(range(250)) * 12
SEGMENT_BYTES = 1000


@pytest.fixture(autouse=True)
def ports(lab: Lab) -> Iterator[None]:
    for spec in (PORT, PINNED):
        lab.attach(spec)
    yield
    for name in list(lab.ports):
        lab.detach(name)
    wait_until(lambda: taps() == [], "the TAPs to go")
    lab.run(lab.manager.reconcile([]))


def large(spec: PortSpec, source: str) -> Frame:
    """Return three segments in one frame, as a guest hands them over."""
    frame = frames.tcp4(spec.mac, source, "10.30.0.2", PAYLOAD)
    offload = replace(frame.offload, gso_type=GSO_TCP4, gso_size=SEGMENT_BYTES, hdr_len=54)
    return replace(frame, offload=offload).tagged(*spec.trunk)


def assert_strict(lab: Lab) -> None:
    """See that the truth passes, and a lie does not."""
    assert lab.follow("strict", TRUTH).keys() >= {"uplink"}
    assert lab.follow("strict", LIE) == {}


def outside(lab: Lab, accept: Callable[[Arrival], bool], count: int) -> list[Arrival]:
    """Return the frames behind the uplink that `accept` takes, once there are `count` of them."""
    found: list[Arrival] = []

    def have_come() -> bool:
        found.extend(one for one in lab.ends["uplink"].drain() if accept(one))
        return len(found) >= count

    wait_until(have_come, f"{count} frames behind the uplink", interval_s=0.001)
    return found


def test_a_checksum_that_a_guest_leaves_to_others_is_written(lab: Lab) -> None:
    frame, token = frames.tcp4(PORT.mac, "10.30.0.1", "10.30.0.2", b"x" * 101), lab.token()
    lab.drain()
    lab.sender("strict").send(frame.to_bytes(token), frame.header)
    [arrival] = outside(lab, lambda one: one.token == token, 1)
    assert frames.tcp4_payload(arrival.frame) == b"x" * 101 + token


@pytest.mark.parametrize("spec", [PORT, PINNED], ids=lambda spec: str(spec.vm_id))
def test_a_large_segment_is_cut_and_all_of_it_arrives(lab: Lab, spec: PortSpec) -> None:
    frame, token = large(spec, "10.30.0.1"), lab.token()
    lab.drain()
    lab.sender(spec.vm_id).send(frame.to_bytes(token), frame.header)
    arrived = outside(lab, lambda one: one.frame[6:12] == frame_source(spec), 4)
    assert [frames.vids(one.tags) for one in arrived] == [(30,)] * 4
    assert b"".join(frames.tcp4_payload(one.frame) for one in arrived) == PAYLOAD + token


def frame_source(spec: PortSpec) -> bytes:
    return frames.mac_bytes(spec.mac)


def test_of_a_large_segment_from_a_foreign_address_nothing_arrives(lab: Lab) -> None:
    assert lab.follow("pinned", large(PINNED, "10.30.0.200")) == {}
    assert lab.drops("pinned") == {"ip": 4}


@pytest.mark.parametrize("gso_type", range(1, 8))
def test_a_large_segment_of_what_is_none_harms_nobody(lab: Lab, gso_type: int) -> None:
    offload = replace(LIE.offload, gso_type=gso_type, gso_size=8)
    # Where the TAP does not take it.
    with suppress(OSError):
        assert lab.follow("strict", replace(LIE, offload=offload)) == {}
    assert_strict(lab)


def _remove_device(spec: PortSpec) -> None:
    ip(f"link del {DEVICE}")


def _remove_filter(spec: PortSpec) -> None:
    run_blocking(["tc", "qdisc", "del", "dev", spec.ifname, "clsact"])


def _lead_elsewhere(spec: PortSpec) -> None:
    _remove_filter(spec)
    ip("link add elsewhere type ifb")
    script = ["filter", "add", "dev", spec.ifname, "ingress", "matchall"]
    run_blocking(["tc", "qdisc", "add", "dev", spec.ifname, "clsact"])
    run_blocking(["tc", *script, "action", "mirred", "egress", "redirect", "dev", "elsewhere"])


def _offload(spec: PortSpec) -> None:
    words = array("I", (0x17, 1))  # ETHTOOL_STXCSUM
    request = struct.pack("16sP", DEVICE.encode(), words.buffer_info()[0]).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8946, request)


@pytest.mark.parametrize("change", [_remove_device, _remove_filter, _lead_elsewhere, _offload])
def test_what_others_change_is_put_right_at_the_next_reconcile(
    lab: Lab, change: Callable[[PortSpec], None]
) -> None:
    assert_strict(lab)
    change(PORT)
    lab.run(lab.manager.reconcile([PORT, PINNED]))
    assert_strict(lab)


def test_without_the_device_nothing_passes(lab: Lab) -> None:
    ip(f"link del {DEVICE}")
    lab.drain()
    token = lab.token()
    lab.sender("strict").send(TRUTH.to_bytes(token))
    assert token not in [arrival.token for arrival in lab.ends["uplink"].drain()]
    lab.run(lab.manager.reconcile([PORT, PINNED]))
    assert_strict(lab)


def test_a_port_is_not_made_where_its_frames_cannot_be_finished(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise NetworkError("no ifb")

    monkeypatch.setattr("qemu_node.net.manager.ensure_device", refuse)
    with pytest.raises(NetworkError, match="no ifb"):
        lab.run(lab.manager.attach(port_spec("other", 9, vlan=30, strict=True)))
    assert len(taps()) == 2


def test_a_strict_port_keeps_its_rate(lab: Lab) -> None:
    spec = port_spec("slow", 3, vlan=30, strict=True, rate_mbit=1)
    guest: Guest = lab.attach(spec)
    lab.drain()
    data = replace(frames.plain(spec.mac), payload=bytes(1380)).to_bytes(lab.token())
    for _ in range(500):
        guest.send(data)
    arrived = [one for one in lab.ends["uplink"].drain() if one.token == data[-8:]]
    assert 0 < len(arrived) < 500
    assert lab.follow("slow", replace(LIE, src=spec.mac)) == {}
