"""Who may see a node's VMs: others than root, the group of the daemon."""

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.published import VM_ID, make_record, publish
from integration.vmnode import VMNode

from qemu_node.cli.doctor.nodefacts import look_for_leftovers
from qemu_node.cli.main import main
from qemu_node.config.node import Paths
from qemu_node.errors import HostError
from qemu_node.host.files.lock import FileLock
from qemu_node.inventory.state import list_summaries
from qemu_node.inventory.vms import find_vm, list_vms
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.life.usage import Usage, UsageMeter, read_usage
from qemu_node.vm.record.directory import VMDirectory, known_vm_ids
from qemu_node.vm.record.record import SocketPaths
from qemu_node.vm.start.qemuprocess import Listeners

pytestmark = pytest.mark.needs_root

NOBODY = 65_534
SHARED_GID = 64_999
"""Stands for the group qemu-node."""


@pytest.fixture
def paths(short_tmp_path: Path) -> Paths:
    return Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))


@contextmanager
def as_user(uid: int, *groups: int) -> Iterator[None]:
    """Be another user, as the kernel judges opens and connects."""
    own_groups, own_gid = os.getgroups(), os.getegid()
    os.setgroups(groups)
    os.setegid(NOBODY)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(own_gid)
        os.setgroups(own_groups)


def publish_as_driver(paths: Paths) -> VMDirectory:
    """Publish a VM in directories with the rights that a driver gives them."""
    record = make_record(paths)
    directory = publish(paths, record)
    directory.create_run(100_001)
    UsageMeter(record.process).publish(directory.usage_json)
    return directory


def test_anyone_may_list_the_published_vms_and_see_their_use(paths: Paths) -> None:
    publish_as_driver(paths)
    with as_user(NOBODY):
        with pytest.raises(PermissionError):
            known_vm_ids(paths)
        assert [vm.record.vm_id for vm in list_vms(paths)] == [VM_ID]
        assert find_vm(paths, "shop/front[0]/web").is_running
        (summary,) = list_summaries(paths)
        assert summary.pss_bytes
        assert look_for_leftovers(paths).name == "left-overs"


def test_a_run_directory_that_may_not_be_listed_is_an_error_of_the_host(paths: Paths) -> None:
    publish_as_driver(paths)
    paths.vm_run_dir.chmod(0o700)
    with as_user(NOBODY):
        with pytest.raises(HostError, match="list the VMs"):
            list_vms(paths)
        assert look_for_leftovers(paths).advice == "run this as root"


def test_the_group_may_use_every_socket_but_the_driver_s(short_tmp_path: Path) -> None:
    paths = Paths(run=str(short_tmp_path / "r"), data=str(short_tmp_path / "d"))
    directory = VMDirectory.of(paths, VM_ID)
    directory.create_run(100_001)
    listeners = Listeners(directory, SHARED_GID)
    names = directory.socket_paths()
    try:
        for user, groups in ((NOBODY, (SHARED_GID,)), (NOBODY, ()), (100_001, (100_001,))):
            with as_user(user, *groups):
                may = {path: can_connect(path) for path in sockets_of(names)}
            is_member = SHARED_GID in groups
            assert may == {path: is_member and path != names.qmp for path in sockets_of(names)}
        assert stat.S_IMODE(Path(names.qmp).stat().st_mode) == 0o600
    finally:
        listeners.close()


def sockets_of(names: SocketPaths) -> list[str]:
    """Return the sockets that the driver makes."""
    assert names.console is not None
    return [names.qmp, names.monitor, names.console, names.qga, names.serial]


def test_the_group_may_lock_the_guest_agent_and_nobody_else(paths: Paths) -> None:
    directory = VMDirectory.of(paths, VM_ID)
    directory.create_run(100_001, SHARED_GID)
    with as_user(NOBODY, SHARED_GID), FileLock(directory.qga_lock):
        # As the driver finds it meanwhile.
        assert not FileLock(directory.qga_lock).try_acquire()
    for user, groups in ((NOBODY, ()), (100_001, (100_001,))):
        with as_user(user, *groups), pytest.raises(HostError, match="Permission denied"):
            FileLock(directory.qga_lock).try_acquire()
    # The VM's own user may add to the directory, and cannot put another lock in its place.
    with as_user(100_001, 100_001), pytest.raises(PermissionError):
        directory.qga_lock.unlink()
    assert FileLock(directory.qga_lock).try_acquire()


@pytest.mark.needs_qemu
async def test_the_sockets_of_a_vm_that_runs_are_the_group_s_but_the_driver_s(
    short_tmp_path: Path, empty_image: Path
) -> None:
    node = VMNode(short_tmp_path, empty_image)
    object.__setattr__(node.node, "rights", replace(node.node.rights, shared_gid=SHARED_GID))
    vm = await node.start(node.request())
    try:
        names = vm.record.sockets
        for path in (*sockets_of(names), names.vnc, vm.record.qga_lock):
            info = Path(path).stat()
            mode, gid = (0o600, 0) if path == names.qmp else (0o660, SHARED_GID)
            # Of vnc.sock, which QEMU makes, everybody of the group has the x that means nothing.
            assert (info.st_mode & 0o667, info.st_gid) == (mode, gid), path
        # The driver holds its own monitor; the others answer.
        for path in sockets_of(names)[1:3]:
            monitor = await QmpConnection.connect(Path(path), timeout_s=60)
            assert (await monitor.execute("query-status"))["status"] == "running"
            await monitor.close()
    finally:
        await node.close()


def can_connect(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except PermissionError:
            return False
        return True


def hostile_files(directory: VMDirectory, user: int) -> Iterator[Path]:
    """Put something else in the place of a VM's files, as a QEMU may that its guest has taken."""
    for target in (directory.usage_json, directory.vm_json):
        for kind in ("fifo", "link", "file", "huge"):
            target.unlink(missing_ok=True)
            with tempfile.TemporaryDirectory(dir=directory.run.parent.parent) as elsewhere:
                secret = Path(elsewhere) / "secret"
                secret.write_bytes(
                    b'{"measured_at":1,"cpu_user_s":1,"cpu_system_s":1,"pss_bytes":1}'
                )
                if kind == "fifo":
                    os.mkfifo(target)
                elif kind == "link":
                    target.symlink_to(secret)
                elif kind == "file":
                    target.write_bytes(secret.read_bytes())
                else:
                    target.touch()
                    os.truncate(target, 1 << 40)
                os.lchown(target, user, user)
                yield target


def test_nothing_that_a_vm_puts_in_its_directory_blocks_or_misleads_a_reader(paths: Paths) -> None:
    directory = publish_as_driver(paths)
    for target in hostile_files(directory, 100_001):
        if target == directory.usage_json:
            assert read_usage(target) is None
        else:
            assert list_vms(paths) == []


def test_what_the_driver_publishes_takes_the_place_of_what_the_vm_has_put_there(
    paths: Paths,
) -> None:
    directory = publish_as_driver(paths)
    directory.usage_json.unlink()
    os.mkfifo(directory.usage_json)
    os.lchown(directory.usage_json, 100_001, 100_001)
    UsageMeter(make_record(paths).process).publish(directory.usage_json)
    assert isinstance(read_usage(directory.usage_json), Usage)


@pytest.mark.parametrize("command", ["image list", "image gc", "vm list", "config check"])
def test_a_command_below_a_closed_directory_says_to_run_it_as_root(
    paths: Paths, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    publish_as_driver(paths)
    closed = Path(paths.data).parent / "closed"
    (closed / "d" / "images").mkdir(parents=True)
    config = closed / "node.toml" if command == "config check" else closed.parent / "node.toml"
    config.write_text(f'[paths]\nrun = "{closed}/r"\ndata = "{closed}/d"\n')
    closed.chmod(0o700)
    with as_user(NOBODY):
        assert main(["--config", str(config), *command.split()]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith(" hint: run this as root (`sudo ")
