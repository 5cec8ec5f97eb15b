"""The guests that tests and the demo boot: how they are built, kept, and what they do."""

import os
import threading
from pathlib import Path

import pytest
from guests import cache
from guests.initramfs import Initramfs, module_dependencies
from integration.vmnode import VMNode

from qemu_node.host.process import command
from qemu_node.qemu.spec import FirmwareMode

BUILD = cache.REPO / "examples" / "guest-image" / "build"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def image(small_guest_image: Path) -> Path:
    return small_guest_image


@pytest.mark.parametrize(
    ("firmware", "seen"),
    [
        (FirmwareMode.SECURE_BOOT, "firmware=uefi secure_boot=yes"),
        (FirmwareMode.UEFI, "firmware=uefi secure_boot=no"),
        (FirmwareMode.BIOS, "firmware=bios secure_boot=no"),
    ],
    ids=list(FirmwareMode),
)
@pytest.mark.needs_qemu
async def test_the_small_guest_boots_with_every_firmware(
    node: VMNode, firmware: FirmwareMode, seen: str
) -> None:
    vm = await node.start(node.request(firmware=firmware))
    log = await node.printed("small guest ready")
    assert f"host={vm.record.hostname} {seen}" in log


@pytest.mark.needs_qemu
async def test_the_small_guest_runs_user_data_before_its_agent_answers(node: VMNode) -> None:
    vm = await node.start(
        node.request(user_data="#!/bin/sh\necho from user data\ntouch /run/was-here\n")
    )
    log = await node.printed("small guest ready")
    assert log.index("from user data") < log.index("small guest ready")
    await vm.agent.ping(timeout_s=60)
    result = await vm.agent.run(["/bin/ls", "/run/was-here"], timeout_s=60)
    assert result.exit_code == 0


@pytest.mark.needs_qemu
async def test_the_small_guest_gets_an_address_and_serves_its_name(node: VMNode) -> None:
    vm = await node.start(node.request())
    await node.printed("small guest ready")
    script = "until ip addr show eth0 | grep -q 10.0.2.; do sleep 0.2; done; wget -qO- 10.0.2.15"
    result = await vm.agent.run(["/bin/sh", "-c", script], timeout_s=60)
    assert result.stdout.decode().strip() == vm.record.hostname


async def test_the_debian_image_is_built_once(debian_guest_image: Path) -> None:
    before = debian_guest_image.stat()
    done = await command.run([str(BUILD), "--cached"], env=dict(os.environ), timeout_s=60)
    assert Path(done.stdout.decode().strip()) == debian_guest_image
    assert debian_guest_image.stat().st_mtime_ns == before.st_mtime_ns


async def test_the_debian_image_is_a_sound_qcow2_with_room_to_grow(
    debian_guest_image: Path,
) -> None:
    done = await command.run(["qemu-img", "check", "--output=json", str(debian_guest_image)])
    assert done.returncode == 0
    assert debian_guest_image.stat().st_size < 400 << 20


def test_two_processes_that_want_a_guest_make_it_once(tmp_path: Path) -> None:
    made: list[Path] = []
    started = threading.Barrier(2)

    def make(target: Path, _scratch: Path) -> None:
        made.append(target)
        target.write_text("guest")

    def want() -> None:
        started.wait()
        assert cache.cached(tmp_path, "guest", "1", ".img", make).read_text() == "guest"

    threads = [threading.Thread(target=want) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_guest_of_other_inputs_replaces_the_kept_one(tmp_path: Path) -> None:
    def make(target: Path, _scratch: Path) -> None:
        target.write_text("guest")

    old = cache.cached(tmp_path, "guest", "1", ".img", make)
    other = cache.cached(tmp_path, "guest-data", "1", ".img", make)
    new = cache.cached(tmp_path, "guest", "2", ".img", make)
    assert other.exists()
    assert (old.exists(), new.exists()) == (False, True)


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def make(target: Path, scratch: Path) -> None:
        target.write_text("half")
        (scratch / "more").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.cached(tmp_path, "guest", "1", ".img", make)
    assert [path.name for path in tmp_path.iterdir()] == ["guest.lock"]


async def test_an_initramfs_is_an_archive_that_cpio_reads() -> None:
    archive = Initramfs()
    archive.add_file("etc/deep/name", b"content", mode=0o600)
    archive.add_link("bin/sh", "busybox")
    done = await command.run(["busybox", "cpio", "-tv"], stdin=archive.to_cpio())
    text = done.stdout.decode()
    assert "bin/sh -> busybox" in text
    assert "-rw-------" in text
    assert "etc/deep/name" in text


@pytest.mark.parametrize(
    ("modinfo", "needed"),
    [
        (b"\0license=GPL\0depends=scsi_mod,scsi-common\0", ("scsi_mod", "scsi_common")),
        (b"\0depends=\0", ()),
        (b"\0license=GPL\0", ()),
    ],
)
def test_module_dependencies_are_read_from_the_module(
    modinfo: bytes, needed: tuple[str, ...]
) -> None:
    assert tuple(module_dependencies(modinfo)) == needed
