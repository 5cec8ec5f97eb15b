"""A guest that has booted, with VLANs of its own on its NIC: which of them lead anywhere.

Its kernel and busybox are those that the test VM itself was started with.
"""

import shlex
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fakes.fake_qemu import fake_qemu
from guests.initramfs import Initramfs
from integration.crashing_driver import NETWORK
from integration.vmnode import VMNode, until
from network import frames
from network.frames import Frame
from network.wire import Wire

from qemu_node.config.node import Paths
from qemu_node.net.manager import PortManager
from qemu_node.vm.vmnetwork import Network

BOOT = Path("boot")
"""Put there by tests/e2e/test_in_debian_vm.py."""
TRUNK, OTHER_VLAN = (30, 40), 50
OUTSIDE_MAC = "52:54:00:77:00:01"
_MODULES = ("virtio_pci", "virtio_net", "8021q", "af_packet")
_READY = "guest speaks"
_QUICKLY = "no_timer_check tsc=reliable mitigations=off nokaslr cryptomgr.notests"
_BOOT_S = 400.0
"""A guest of an emulator in an emulator."""
_INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec </dev/ttyS0 >/dev/ttyS0 2>&1
while read -r module; do insmod "$module"; done </lib/modules.load
ip link set lo up
ip link set eth0 up
ip addr add 10.0.0.5/24 dev eth0
for vid in {" ".join(str(vid) for vid in (*TRUNK, OTHER_VLAN))}; do
    ip link add link eth0 name eth0.$vid type vlan id $vid
    ip addr add 10.$vid.0.5/24 dev eth0.$vid
    ip link set eth0.$vid up
done
echo "{_READY}"
# What must not arrive comes first: it would be there with what must.
while :; do
    for vid in {OTHER_VLAN} {" ".join(str(vid) for vid in TRUNK)}; do
        arping -q -c 1 -w 1 -I eth0 10.0.0.9
        arping -q -c 1 -w 1 -I eth0.$vid 10.$vid.0.9
    done
done
"""

pytestmark = [
    pytest.mark.needs_vlans,
    pytest.mark.needs_qemu,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("vlan_bridge"),
]


@pytest.fixture
def program(short_tmp_path: Path) -> str:
    """Return QEMU with a guest of busybox alone."""
    if not BOOT.is_dir():
        pytest.skip("there is no guest's kernel here: run it in the test VM")
    archive = Initramfs()
    for directory in ("dev", "proc", "sys"):
        archive.add_directory(directory)
    archive.add_modules(Path("/"), _MODULES)
    archive.add_file("init", _INIT.encode(), mode=0o755)
    initrd, kernel = short_tmp_path / "initrd", short_tmp_path / "vmlinuz"
    # Of two archives, one after the other, the second one wins.
    initrd.write_bytes((BOOT / "initrd").read_bytes() + archive.to_cpio())
    kernel.write_bytes((BOOT / "vmlinuz").read_bytes())
    words = ["-kernel", str(kernel), "-initrd", str(initrd)]
    words += ["-append", f"console=ttyS0 quiet {_QUICKLY}"]
    return fake_qemu(short_tmp_path, f'exec qemu-system-x86_64 "$@" {shlex.join(words)}')


@pytest.fixture
async def node(
    vlan_bridge: None, short_tmp_path: Path, empty_image: Path, program: str
) -> AsyncIterator[VMNode]:
    paths = Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
    network = Network(paths, NETWORK, PortManager(NETWORK, identity="test"))
    node = VMNode(short_tmp_path, empty_image, network=network, qemu_program=program)
    yield node
    await node.close()


@pytest.fixture
def outside(vlan_bridge: None) -> Iterator[Wire]:
    wire = Wire("outside")
    yield wire
    wire.close()


class Heard:
    """What the guest sent: with which tag, 0 for none, and whether it answered somebody outside."""

    def __init__(self, wire: Wire, mac: str) -> None:
        self._wire = wire
        self._mac = mac
        self.said: list[int] = []
        self.answered: list[int] = []

    def listen(self) -> "Heard":
        """Take what has come since the last time."""
        for arrival in self._wire.drain():
            vid = frames.vids(arrival.tags)[0] if arrival.tags else 0
            if arrival.text.startswith(f"{self._mac} > {OUTSIDE_MAC}"):
                self.answered.append(vid)
            elif arrival.text.startswith(self._mac):
                self.said.append(vid)
        return self


def question(vid: int) -> Frame:
    """Return what somebody outside asks for the guest's address in a VLAN."""
    return frames.arp(OUTSIDE_MAC, OUTSIDE_MAC, f"10.{vid}.0.1", f"10.{vid}.0.5").tagged(vid)


async def test_a_guest_s_own_vlans_lead_where_its_trunk_does_and_nowhere_else(
    node: VMNode, outside: Wire
) -> None:
    port = node.port(None, trunk=TRUNK, strict=True)
    vm = await node.start(node.request(nics=(port,), memory_mib=384))
    await node.printed(_READY, timeout_s=_BOOT_S)
    heard = Heard(outside, port.mac)
    # Before each of these it has spoken in its other VLAN, and without a tag.
    await until(heard.listen, lambda heard: set(heard.said) >= set(TRUNK), "what the guest says")
    assert set(heard.said) == set(TRUNK)
    for vid in (OTHER_VLAN, *TRUNK):
        outside.send(question(vid).to_bytes(b"question"))
    await until(heard.listen, lambda heard: set(heard.answered) >= set(TRUNK), "its answers")
    assert sorted(heard.answered) == sorted(TRUNK)
    await node.supervisor.destroy(vm)
