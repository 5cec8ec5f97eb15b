"""Images under VMs that run: a new version comes, the old one goes with its last VM.

Real QEMUs whose guest has nothing to boot.
"""

import shutil
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.image_server import ImageServer
from integration.vmnode import VMNode

from qemu_node.config.images import ImagesConfig
from qemu_node.vm.life.machine import VM

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(300)]

V1, V2 = bytes(1 << 20), bytes(512) + b"2" * 512 + bytes((1 << 20) - 1024)


@pytest.fixture
async def server() -> AsyncGenerator[ImageServer]:
    async with ImageServer.running() as server:
        yield server


@pytest.fixture
async def node(short_tmp_path: Path) -> AsyncGenerator[VMNode]:
    settings = ImagesConfig(low_space="0%", allow_networks=("127.0.0.0/8",), ttl="0s")
    node = VMNode(short_tmp_path, short_tmp_path / "no-image", images=settings)
    yield node
    await node.close()


async def start(node: VMNode, url: str, task: str) -> VM:
    return await node.start(replace(node.request(task=task), image=url))


def open_files(vm: VM) -> set[str]:
    """Return what the VM's QEMU has open."""
    found = set()
    for fd in Path(f"/proc/{vm.process.pid}/fd").iterdir():
        found.add(str(fd.readlink()))
    return found


async def test_job_republished_while_its_vms_run(node: VMNode, server: ImageServer) -> None:
    keeper = node.node.keeper
    url = server.publish("/disk.raw", V1)
    first = await start(node, url, "first")
    server.publish("/disk.raw", V2)
    second = await start(node, url, "second")
    assert first.directory.base.read_bytes() == V1
    assert second.directory.base.read_bytes() == V2
    assert str(first.directory.base) in open_files(first)
    assert str(second.directory.base) in open_files(second)
    await node.supervisor.reconcile()
    new, old = keeper.images()
    assert (new.users, new.is_outdated) == ((second.record.vm_id,), False)
    assert (old.users, old.is_outdated) == ((first.record.vm_id,), True)
    await node.supervisor.destroy(first)
    await node.supervisor.reconcile()
    assert [image.users for image in keeper.images()] == [(second.record.vm_id,)]
    assert second.exit is None


async def test_vm_outlives_the_loss_of_the_whole_cache(node: VMNode, server: ImageServer) -> None:
    url = server.publish("/disk.raw", V1)
    vm = await start(node, url, "vm")
    shutil.rmtree(node.paths.images_dir)
    await node.supervisor.reconcile()
    assert vm.exit is None
    assert vm.directory.base.read_bytes() == V1
    again = await start(node, url, "again")
    assert again.exit is None


async def test_no_secret_of_an_image_is_written_down_about_its_vm(
    node: VMNode, server: ImageServer, short_tmp_path: Path
) -> None:
    url = server.publish("/disk.raw", V1).replace("://", "://me:hunter2@") + "?token=hunter3"
    server.resources["/disk.raw?token=hunter3"] = server.resources["/disk.raw"]
    vm = await start(node, url, "vm")
    files = [path for path in short_tmp_path.rglob("*") if path.is_file()]
    # The serial log begins behind a hole of terabytes.
    written = [path.read_bytes() for path in files if path.stat().st_size < 1 << 30]
    written += [vm.state.encode(), Path(f"/proc/{vm.process.pid}/cmdline").read_bytes()]
    assert any(vm.record.vm_id.encode() in text for text in written)
    assert not [text for text in written if b"hunter" in text]


async def test_image_of_this_host_is_used_in_place(node: VMNode, short_tmp_path: Path) -> None:
    image = short_tmp_path / "images" / "empty.raw"
    image.parent.mkdir()
    image.write_bytes(V1)
    other = VMNode(short_tmp_path, image)
    try:
        vm = await other.start(other.request())
        assert not vm.directory.base.exists()
        assert image.stat().st_nlink == 1
        assert str(image) in open_files(vm)
    finally:
        await other.close()
