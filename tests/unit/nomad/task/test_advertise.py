import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from fakes.fake_qga import FakeQga
from fakes.published import make_record

from qemu_node.config.node import Paths
from qemu_node.nomad.task.advertise import tell_of_address, wait_to_advertise
from qemu_node.qga.agent import GuestAgent
from qemu_node.vm.life.machine import VM
from qemu_node.vm.record.outcome import POWERED_OFF, VMExit
from qemu_node.vm.record.record import NicRecord
from qemu_node.vm.start.request import Advertise

# The guest agent of the tests has 10.0.2.15 on this one.
MAC = "52:54:00:12:34:56"


class Ear:
    """Hears what a task's events say."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __call__(self, text: str, _notes: dict[str, str]) -> None:
        self.told.append(text)


def make_vm(tmp_path: Path, *addresses: str, outcome: VMExit | None = None) -> VM:
    """Return as much of a VM as is looked at, with a user-mode NIC and a port."""
    port = NicRecord(mode="vlan", mac=MAC, ifname="qn1", vlan=30, addresses=addresses)
    nics = (NicRecord(mode="user", mac="02:00:00:00:00:00"), port)
    paths = Paths(run=str(tmp_path), data=str(tmp_path))

    async def wait() -> VMExit:
        if outcome is None:
            await asyncio.Event().wait()
            raise AssertionError
        return outcome

    agent = GuestAgent(tmp_path / "qga.sock", tmp_path / "qga.lock")
    vm = SimpleNamespace(agent=agent, record=make_record(paths, nics=nics), exit=outcome, wait=wait)
    return cast("VM", vm)


async def test_the_guest_s_address_is_told_and_advertised(tmp_path: Path) -> None:
    hear = Ear()
    async with FakeQga(tmp_path / "qga.sock"), asyncio.timeout(30):
        override = await wait_to_advertise(make_vm(tmp_path), Advertise(nic=1, wait_s=20), hear)
    assert override is not None
    assert override.addr == "10.0.2.15"
    assert not override.auto_advertise
    assert len(hear.told) == 1
    assert "has 10.0.2.15; its services advertise it" in hear.told[0]


async def test_a_start_goes_on_without_an_address_when_its_time_is_over(tmp_path: Path) -> None:
    hear = Ear()
    async with FakeQga(tmp_path / "qga.sock"), asyncio.timeout(30):
        vm = make_vm(tmp_path, "192.0.2.0/24")
        assert await wait_to_advertise(vm, Advertise(nic=1, wait_s=0.3), hear) is None
    assert hear.told == [
        f"guest shop-front-web-0 reported no address on {MAC} within 0.3 s: "
        'services with address_mode "driver" are not registered'
    ]


async def test_a_vm_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    hear = Ear()
    vm = make_vm(tmp_path, outcome=POWERED_OFF)
    async with asyncio.timeout(30):
        assert await wait_to_advertise(vm, Advertise(nic=1, wait_s=600), hear) is None
        await tell_of_address(vm, hear)
    assert hear.told == []


async def test_addresses_on_ports_are_told_and_those_of_user_mode_are_not(tmp_path: Path) -> None:
    hear = Ear()
    async with FakeQga(tmp_path / "qga.sock"), asyncio.timeout(30):
        await tell_of_address(make_vm(tmp_path), hear)
    assert [text.partition(" has ")[2] for text in hear.told] == ["10.0.2.15"]
