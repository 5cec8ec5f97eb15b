"""What a guest prints while no driver runs takes a bounded space, and QEMU goes on."""

import asyncio
import itertools
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from integration.vmnode import WAIT_S, VMNode, until

from qemu_node.host import limits
from qemu_node.host.limits import NoFileSizeLimitError
from qemu_node.host.process import identity, pidfd
from qemu_node.host.process.command import Child, spawn
from qemu_node.host.process.privileges import launcher_argv
from qemu_node.vm.output import vmlogs
from qemu_node.vm.output.serialbound import LOG_BEGIN_BYTES

MIB = 1 << 20
UNREAD = 2 * MIB
CAP_SYS_RESOURCE = 24  # linux/capability.h

# Prints lines on COM1 without end, each a number of eight digits A to P, one more than the last.
FLOOD = bytes.fromhex(
    "fa"  # cli
    "6631db"  # xor ebx, ebx
    "baf803"  # mov dx, 0x3f8
    "b90800"  # line: mov cx, 8
    "66c1c304"  # digit: rol ebx, 4
    "88d8"  # mov al, bl
    "240f"  # and al, 15
    "0441"  # add al, 'A'
    "ee"  # out dx, al
    "e2f3"  # loop digit
    "b00a"  # mov al, 10
    "ee"  # out dx, al
    "6643"  # inc ebx
    "ebe9"  # jmp line
)


@pytest.fixture
def image(short_tmp_path: Path) -> Path:
    path = short_tmp_path / "flood" / "boot.raw"
    path.parent.mkdir()
    path.write_bytes(FLOOD.ljust(510, b"\0") + b"\x55\xaa" + bytes(MIB - 512))
    return path


@pytest.fixture
async def node(short_tmp_path: Path, image: Path) -> AsyncIterator[VMNode]:
    node = made_node(short_tmp_path, image)
    yield node
    await node.close()


def made_node(root: Path, image: Path) -> VMNode:
    """Return a node that may limit its VMs: another user's only with CAP_SYS_RESOURCE."""
    status = Path("/proc/self/status").read_text()
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    assert effective is not None
    may_limit_others = bool(int(effective[1], 16) >> CAP_SYS_RESOURCE & 1)
    return VMNode(root, image, is_root=None if may_limit_others else False)


def numbers(console: bytes) -> list[int]:
    """Return the numbers of the whole lines."""
    digits = bytes.maketrans(b"ABCDEFGHIJKLMNOP", b"0123456789abcdef")
    return [
        int(line.translate(digits), 16) for line in re.findall(rb"^([A-P]{8})\n", console, re.M)
    ]


async def console_of(node: VMNode, size: int) -> bytes:
    """Return what the guest printed, once it is more than `size` bytes."""
    async with asyncio.timeout(WAIT_S):
        # A recovered VM's log is opened when the first of it is written.
        while len(node.console.get("vm", b"")) <= size:
            await node.supervisor.flush_logs()
            await asyncio.sleep(0.01)
    return bytes(node.console["vm"])


@pytest.mark.needs_qemu
async def test_a_flood_without_a_driver_is_bounded_and_read_in_order_afterwards(
    node: VMNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vmlogs, "UNREAD_MAX_BYTES", UNREAD)
    vm = await node.start(node.request(memory_mib=256))
    seen = await console_of(node, 100)
    limit = limits.read_file_size_limit(vm.process)
    assert limit is not None
    await node.crash()
    log = vm.directory.serial_log
    await until(lambda: log.stat().st_size, lambda size: size == limit, "full log")
    # The guest goes on, which the log does not show.
    before = identity.cpu_times(vm.process)
    await until(lambda: identity.cpu_times(vm.process), lambda now: now != before, "work of QEMU")
    assert log.stat().st_size == limit
    assert log.stat().st_blocks * 512 <= UNREAD + MIB
    second = made_node(node.root, node.image)
    try:
        adopted = await second.supervisor.recover(vm.state)
        assert adopted.process == vm.process
        kept = limit - LOG_BEGIN_BYTES - len(seen)
        later = numbers(await console_of(second, kept + MIB))
        assert identity.is_alive(vm.process)
        moved = limits.read_file_size_limit(vm.process)
    finally:
        await second.close()
    assert moved is not None
    assert moved > limit
    # A driver that is killed may have a few lines twice, and loses none.
    assert later[0] <= numbers(seen)[-1] + 1
    whole = kept // 9 - 1
    assert later[:whole] == list(range(later[0], later[0] + whole))
    assert all(one < other for one, other in itertools.pairwise(later))
    assert later[-1] - later[0] >= len(later)
    assert second.leftovers() == []


@pytest.fixture
def sleeping() -> Iterator[list[Child]]:
    children: list[Child] = []
    yield children
    for child in children:
        pidfd.send_signal(child.process, signal.SIGKILL)


async def test_the_launcher_makes_a_process_that_survives_its_limit(
    sleeping: list[Child], tmp_path: Path
) -> None:
    script = 'until [ -e "$1/go" ]; do sleep 0.01; done; echo much > "$1/out"; touch "$1/alive"'
    argv = launcher_argv(["/bin/sh", "-c", script, "sh", str(tmp_path)], uid=None)
    child = spawn(argv, stderr_fd=2)
    sleeping.append(child)

    def limit() -> int | None:
        try:
            limits.set_file_size_limit(child.process, 2)
        except NoFileSizeLimitError:  # the launcher has only begun
            return None
        return limits.read_file_size_limit(child.process)

    await until(limit, lambda value: value == 2, "limit")
    (tmp_path / "go").touch()
    await until((tmp_path / "alive").exists, bool, "end of the script")
    assert (tmp_path / "out").read_bytes() == b"mu"


async def test_a_process_that_would_die_of_a_limit_gets_none(sleeping: list[Child]) -> None:
    child = spawn(["sleep", "600"], stderr_fd=2)
    sleeping.append(child)
    with pytest.raises(NoFileSizeLimitError, match="SIGXFSZ"):
        limits.set_file_size_limit(child.process, MIB)
    text = Path(f"/proc/{child.process.pid}/limits").read_text()
    assert re.search(r"^Max file size +unlimited", text, re.M)
    os.kill(child.process.pid, signal.SIGKILL)
    await until(child.exit_status, lambda status: status is not None, "end")
    with pytest.raises(ProcessLookupError):
        limits.read_file_size_limit(child.process)
