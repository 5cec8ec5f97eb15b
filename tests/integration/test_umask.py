"""VMs of a driver whose umask lets nobody else in, on what an earlier start left closed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.vmnode import VMNode

from qemu_node.config.node import QemuConfig
from qemu_node.host.process.identity import is_alive
from qemu_node.nomad.plugin.handshake import plugin_socket
from qemu_node.qemu.spec import FirmwareMode
from qemu_node.run.allocation.allocdir import SessionDir, make_alloc_dir
from qemu_node.vm.hypervisor import HypervisorFinder

pytestmark = [pytest.mark.needs_qemu, pytest.mark.timeout(600)]


@pytest.fixture(params=["new", "left closed"])
def closed(request: pytest.FixtureRequest, short_tmp_path: Path) -> Iterator[Path]:
    """The root of a node, under umask 077."""
    if request.param != "new":
        for name in ("r/vm", "r/proof", "r/plugin", "d/vm", "d/run", "d/images/blobs"):
            path = short_tmp_path / name
            path.mkdir(parents=True)
            path.chmod(0o700)
            path.parent.chmod(0o700)
        (short_tmp_path / "r").chmod(0o700)
        (short_tmp_path / "d").chmod(0o700)
    before = os.umask(0o077)
    yield short_tmp_path
    os.umask(before)


async def test_a_vm_starts_whatever_umask_the_driver_has(closed: Path, empty_image: Path) -> None:
    node = VMNode(closed, empty_image)
    try:
        vm = await node.start(node.request(firmware=FirmwareMode.SECURE_BOOT))
        assert is_alive(vm.process)
        # Everybody on the node may list the VMs and read what they are.
        assert vm.directory.run.parent.stat().st_mode & 0o777 == 0o755
        assert vm.directory.vm_json.stat().st_mode & 0o777 == 0o644
    finally:
        await node.close()
    assert node.leftovers() == []


async def test_guests_are_proven_to_run_whatever_umask_the_driver_has(
    closed: Path, empty_image: Path
) -> None:
    node = VMNode(closed, empty_image)
    config = QemuConfig(accelerator="tcg")
    finder = HypervisorFinder(config, node.paths, is_root=os.geteuid() == 0, kvm_gid=None)
    hypervisor = await finder.find()
    assert hypervisor.kvm_problem is None
    await node.close()


def test_a_session_of_run_is_laid_out_as_nomad_would_whatever_the_umask(closed: Path) -> None:
    session = SessionDir.create(closed / "d" / "run")
    alloc_dir = make_alloc_dir(session.path, "alloc", ["task"])
    modes = {
        str(path.relative_to(session.path.parent.parent)): path.stat().st_mode & 0o777
        for path in (alloc_dir / "task" / "local", *(alloc_dir / "task" / "local").parents)
        if path.is_relative_to(closed / "d") and path != closed / "d"
    }
    name = session.path.name
    assert modes == {
        "run": 0o711,
        f"run/{name}": 0o711,
        f"run/{name}/alloc": 0o711,
        f"run/{name}/alloc/alloc": 0o711,
        f"run/{name}/alloc/alloc/task": 0o777,
        f"run/{name}/alloc/alloc/task/local": 0o777,
    }
    session.remove()


def test_the_plugins_socket_is_ours_alone_whatever_the_umask(closed: Path) -> None:
    with plugin_socket(closed / "r", {}) as socket:
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert (closed / "r").stat().st_mode & 0o777 == 0o755
