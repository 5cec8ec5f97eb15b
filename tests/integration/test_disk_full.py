"""A guest that writes more than the node's disk can take: paused, told, continued, nothing lost."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.fake_qemu import fake_qemu_with_qmp
from integration.vmnode import VMNode, until

from qemu_node.host.files.space import read_space
from qemu_node.host.process.command import run_blocking
from qemu_node.inventory.state import VMStatus, summarize
from qemu_node.qmp import commands as qmp_commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.qmp.events import RunState
from qemu_node.units import GIB, MIB, Share
from qemu_node.vm.life import diskguard
from qemu_node.vm.life.machine import VM
from qemu_node.vm.life.usage import DiskState, read_usage
from qemu_node.vm.record.outcome import FORCED_OFF

pytestmark = pytest.mark.timeout(600)

PAUSED = "VM paused: the node's disk is full; it goes on when there is room again"
GOES_ON = "VM goes on: the node's disk has room again"
RESERVE = "8M"
SMALL_MIB, LARGE_MIB = 48, 256
WROTE_TIMEOUT_S = 400
# Beyond the partition that it booted from, and more than the small disk can take.
WRITES = """\
#!/bin/sh
(
tr '\\0' x </dev/zero | head -c 67108864 | dd of=/dev/sda bs=65536 seek=1600 2>/dev/null && sync
echo "wrote: $?"
dd if=/dev/sda bs=65536 skip=1600 count=1024 2>/dev/null | tr -d x | wc -c | sed 's/^/lost: /'
) &
"""


class SmallDisk:
    """A file system for a node's data."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._mount(f"size={SMALL_MIB}m,mode=0755")

    def _mount(self, options: str) -> None:
        run_blocking(["mount", "-t", "tmpfs", "-o", options, "none", str(self.path)])

    def grow(self) -> None:
        """Make room for all that the guest writes."""
        self._mount(f"remount,size={LARGE_MIB}m")

    def unmount(self) -> None:
        run_blocking(["umount", "-l", str(self.path)])


@pytest.fixture
def disk(short_tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(short_tmp_path / "d")
    yield disk
    disk.unmount()


@pytest.fixture
async def node(short_tmp_path: Path, small_guest_image: Path) -> AsyncIterator[VMNode]:
    node = VMNode(short_tmp_path, small_guest_image, disk_reserve=RESERVE)
    yield node
    await node.close()


async def filled(node: VMNode) -> VM:
    """Start a guest that writes, and return its VM once it waits for room."""
    vm = await node.start(replace(node.request(user_data=WRITES), disk_size_bytes=GIB))
    await until(lambda: disk_state(vm), lambda state: state.is_full, "pause")
    return vm


def disk_state(vm: VM) -> DiskState:
    usage = read_usage(vm.directory.usage_json)
    return DiskState() if usage is None else usage.disk


async def run_state(vm: VM) -> RunState:
    async with await QmpConnection.connect(Path(vm.record.sockets.monitor)) as monitor:
        return (await qmp_commands.query_status(monitor)).status


async def wrote_everything(node: VMNode) -> None:
    log = await node.printed("lost: ", timeout_s=WROTE_TIMEOUT_S)
    assert "wrote: 0" in log
    assert "lost: 0" in log
    assert "I/O error" not in log


@pytest.mark.needs_qemu
@pytest.mark.needs_root
async def test_a_guest_that_fills_the_disk_is_paused_and_goes_on_with_all_it_wrote(
    disk: SmallDisk, node: VMNode
) -> None:
    vm = await filled(node)
    assert node.told[-1] == PAUSED
    assert summarize(node.paths, vm.record.vm_id).status is VMStatus.DISK_FULL
    assert await run_state(vm) is RunState.IO_ERROR
    assert vm.exit is None
    disk.grow()
    await until(lambda: node.told[-1], lambda text: text == GOES_ON, "event")
    await wrote_everything(node)
    assert node.told.count(PAUSED) == node.told.count(GOES_ON) == 1
    assert disk_state(vm) == DiskState(is_full=False, pauses=1)
    assert summarize(node.paths, vm.record.vm_id).status is VMStatus.RUNNING
    await asyncio.wait_for(vm.stop(120), 200)


@pytest.mark.needs_qemu
@pytest.mark.needs_root
async def test_the_next_driver_lets_a_paused_guest_go_on_and_tells_only_that(
    disk: SmallDisk, node: VMNode, small_guest_image: Path
) -> None:
    vm = await filled(node)
    await node.crash()
    second = VMNode(node.root, small_guest_image, disk_reserve=RESERVE)
    try:
        second.console = node.console
        adopted = await second.supervisor.recover(vm.state, second.tell)
        assert adopted.exit is None
        await until(lambda: disk_state(vm).is_full, lambda full: full, "state kept")
        disk.grow()
        await until(lambda: second.told, lambda told: GOES_ON in told, "event")
        await wrote_everything(second)
        assert second.told == [GOES_ON]
        assert disk_state(vm) == DiskState(is_full=False, pauses=1)
    finally:
        await second.close()


@pytest.mark.needs_qemu
@pytest.mark.needs_root
async def test_a_guest_that_waits_for_room_is_stopped_at_once(
    disk: SmallDisk, node: VMNode
) -> None:
    assert disk.path.is_mount()
    vm = await filled(node)
    async with asyncio.timeout(60):
        await vm.stop(600)
    assert vm.exit == FORCED_OFF
    await node.supervisor.destroy(vm)
    assert node.leftovers() == []


NO_SPACE = [{"device": "", "qdev": "/machine/peripheral/hd0", "io-status": "nospace"}]


@pytest.fixture
async def image(short_tmp_path: Path) -> Path:
    path = short_tmp_path / "images" / "empty.raw"
    path.parent.mkdir()
    path.touch()
    os.truncate(path, MIB)
    return path


async def start_fake(root: Path, image: Path, **behaviour: Any) -> tuple[VMNode, VM]:
    """Start a VM of a QEMU that is paused from the beginning and has told nobody."""
    program = fake_qemu_with_qmp(
        root, status="io-error", replies={"query-block": NO_SPACE}, **behaviour
    )
    node = VMNode(root, image, qemu_program=program, is_root=False)
    return node, await node.start(node.request())


async def test_a_pause_whose_events_were_lost_is_noticed(short_tmp_path: Path, image: Path) -> None:
    assert diskguard.may_go_on(read_space(short_tmp_path), Share())
    node, vm = await start_fake(short_tmp_path, image)
    await until(lambda: node.told, lambda told: GOES_ON in told, "event", 60)
    assert node.told == [PAUSED, GOES_ON]
    assert disk_state(vm) == DiskState(is_full=False, pauses=1)
    await node.close()


@pytest.mark.parametrize(
    "behaviour",
    [
        {"mid_reply": ["query-block"]},
        {"hang_up": ["query-block"]},
        {"errors": {"query-block": "no"}},
        {"hang_up": ["cont"]},
        {"errors": {"cont": "no"}},
    ],
    ids=str,
)
async def test_a_qemu_that_answers_nonsense_is_asked_again_and_its_pause_told_at_most_once(
    short_tmp_path: Path,
    image: Path,
    behaviour: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    node, vm = await start_fake(short_tmp_path, image, **behaviour)
    complaint = "control socket does not answer"
    await until(lambda: caplog.messages.count(complaint), lambda n: n >= 3, "third try", 60)
    assert node.told == ([PAUSED] if "cont" in str(behaviour) else [])
    async with asyncio.timeout(60):
        await vm.stop(4)
    assert vm.exit is not None
    await node.close()
