"""Whose a process is: real ones that look like a VM's and are none, and the other way round."""

import asyncio
import ctypes
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.specs import QEMU_10_0, make_spec
from integration.vmnode import VMNode, until

from qemu_node.config.node import Paths, QemuConfig
from qemu_node.errors import HostError
from qemu_node.host.process.command import Child, spawn
from qemu_node.host.process.identity import is_alive
from qemu_node.host.process.users import CLAIMS_DIR, UserClaim, is_claimed
from qemu_node.qemu.cmdline import build_argv
from qemu_node.vm import reconcile
from qemu_node.vm.reconcile import Reconciler
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.leases import lease_uid, uid_leases
from qemu_node.vm.record.processes import find_vm_processes
from qemu_node.vm.record.removal import kill

pytestmark = pytest.mark.timeout(300)

VM_ID = "web-0123456789ab"
NOBODY = 65_534
# Per test run: others may run these tests on this machine at the same time.
UIDS = range(3_000_000 + 100 * (os.getpid() % 10_000), 3_000_100 + 100 * (os.getpid() % 10_000))

SLEEPER = "import time; time.sleep(600)"

# Becomes the user when its stdin ends.
LAUNCHER = """
import os, sys, time
print("here", flush=True)
sys.stdin.read()
os.setresgid(*3 * [int(sys.argv[1])])
os.setresuid(*3 * [int(sys.argv[1])])
time.sleep(600)
"""

# Only its first thread ends (exit(2), not exit_group(2)): /proc calls the process a zombie.
HEADLESS = """
import ctypes, sys, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall(60, 0)
"""


@contextmanager
def running(
    *argv: str, uid: int | None = None, program: str = SLEEPER, **more: object
) -> Iterator[Child]:
    """Have a process, whatever its command line says, until the end of the block."""
    null = os.open(os.devnull, os.O_RDWR)
    words = [sys.executable, "-c", program, *argv]
    if uid is not None:
        words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *words]
    child = spawn(words, stderr_fd=null, **more)  # type: ignore[arg-type]
    os.close(null)
    try:
        yield child
    finally:
        child.kill_group()
        while child.exit_status() is None:
            os.sched_yield()


async def became(child: Child, uid: int) -> None:
    """Return once `child` runs as `uid`."""
    status = Path(f"/proc/{child.process.pid}/status")
    await until(status.read_text, lambda text: f"Uid:\t{uid}\t{uid}" in text, f"uid {uid}")


def qemu_words(vm_data_dir: Path, vm_id: str = VM_ID) -> list[str]:
    """Return the command line of a VM of the node whose VMs are in `vm_data_dir`."""
    argv = build_argv(make_spec(), "qemu-system-x86_64", QEMU_10_0)
    return [arg.replace("/data/vm", str(vm_data_dir)).replace(VM_ID, vm_id) for arg in argv]


@pytest.fixture
async def other(short_tmp_path: Path, image: Path) -> AsyncIterator[VMNode]:
    """A second node, whose directories end like those of the first."""
    root = short_tmp_path / "lab" / short_tmp_path.relative_to("/")
    root.mkdir(parents=True)
    node = VMNode(root, image)
    yield node
    await node.close()


@pytest.mark.needs_root
@pytest.mark.parametrize("uid", [NOBODY, None])
async def test_no_process_makes_the_driver_touch_what_its_command_line_names(
    node: VMNode, tmp_path: Path, uid: int | None
) -> None:
    victim = tmp_path / "parent" / "victim"
    victim.mkdir(parents=True)
    victim.parent.chmod(0o700)
    vm_data_dir = node.paths.vm_data_dir
    claimed = VMDirectory.of(node.paths, VM_ID)
    with (
        running("-name", f"guest={victim}", f"{vm_data_dir}/{victim}/", uid=uid) as first,
        running(*qemu_words(vm_data_dir, str(victim)), uid=uid) as second,
        running(*qemu_words(vm_data_dir), uid=uid) as third,
    ):
        for child in (first, second, third):
            await became(child, 0 if uid is None else uid)
        assert await node.supervisor.reconcile() == []
        assert all(is_alive(child.process) for child in (first, second, third))
        assert node.running() == set()
    assert victim.is_dir()
    assert victim.parent.stat().st_mode & 0o777 == 0o700
    assert not claimed.data.exists()


@pytest.mark.needs_root
async def test_without_root_a_process_of_our_own_user_is_known_by_its_command_line(
    node: VMNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm_data_dir = node.paths.vm_data_dir
    with (
        running(*qemu_words(vm_data_dir), uid=NOBODY) as own,
        running(*qemu_words(vm_data_dir), uid=UIDS.start) as others,
        running(*qemu_words(vm_data_dir, "/etc"), uid=NOBODY) as bad,
        running(*qemu_words(Path(f"/srv{vm_data_dir}")), uid=NOBODY) as elsewhere,
    ):
        for child in (own, bad, elsewhere):
            await became(child, NOBODY)
        await became(others, UIDS.start)
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        assert find_vm_processes(vm_data_dir) == [(VM_ID, own.process)]


@pytest.mark.needs_root
async def test_a_node_leaves_the_vms_of_another_alone_whose_paths_end_alike(
    node: VMNode, other: VMNode
) -> None:
    directory = VMDirectory.of(other.paths, VM_ID)
    directory.create_data()
    user = lease_uid(other.paths.vm_data_dir, VM_ID, UIDS.start, 1)
    words = qemu_words(other.paths.vm_data_dir)
    with running(*words, uid=user.uid, pass_fds=(user.fd,)) as child:
        user.close()
        await became(child, user.uid)
        assert other.running() == {VM_ID}
        assert node.running() == set()
        assert await node.supervisor.reconcile() == []
        assert is_alive(child.process)
        assert directory.data.exists()
        assert await other.supervisor.reconcile() == [VM_ID]
        assert not is_alive(child.process)
    assert not directory.data.exists()


@pytest.mark.needs_root
async def test_a_node_leaves_the_vms_of_another_alone_that_has_the_same_run_directory(
    node: VMNode, other: VMNode
) -> None:
    vm = await node.start(node.request())
    shared = Paths(run=node.paths.run, data=other.paths.data)
    assert await Reconciler(shared).run() == []
    assert vm.directory.vm_json.exists()
    assert vm.exit is None


@pytest.mark.needs_root
async def test_a_node_without_a_lease_left_leaves_the_process_of_the_next_holder_alone(
    node: VMNode, other: VMNode
) -> None:
    # A lease of a VM that is gone, of which a power cut left the file.
    leases = node.paths.vm_data_dir / ".uid"
    leases.mkdir(parents=True)
    (leases / str(UIDS.start)).write_text(VM_ID)
    user = lease_uid(other.paths.vm_data_dir, VM_ID, UIDS.start, 1)
    with running(uid=user.uid, pass_fds=(user.fd,)) as child:
        await became(child, user.uid)
        assert await node.supervisor.reconcile() == []
        assert is_alive(child.process)
    user.close()
    assert uid_leases(other.paths.vm_data_dir) == {user.uid: VM_ID}


@pytest.mark.needs_root
async def test_a_launcher_that_is_still_root_is_waited_for_and_ended(node: VMNode) -> None:
    directory = VMDirectory.of(node.paths, VM_ID)
    directory.create_data()
    user = lease_uid(node.paths.vm_data_dir, VM_ID, UIDS.start, 1)
    stdin, go = os.pipe()
    here, stdout = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    argv = [sys.executable, "-c", LAUNCHER, str(user.uid)]
    child = spawn(argv, stdin_fd=stdin, stdout_fd=stdout, stderr_fd=null, pass_fds=(user.fd,))
    try:
        # As if the driver had been killed right after the start.
        user.close()
        assert await asyncio.to_thread(os.read, here, 4) == b"here"
        assert find_vm_processes(node.paths.vm_data_dir) == []
        assert node.running() == {VM_ID}
        reconciling = asyncio.ensure_future(node.supervisor.reconcile())
        done, _ = await asyncio.wait({reconciling}, timeout=0.5)
        # Whether it has looked by now or not: nothing is removed while the launcher lives.
        assert not done
        assert directory.data.exists()
        assert is_alive(child.process)
        os.close(go)
        assert await reconciling == [VM_ID]
        assert not is_alive(child.process)
    finally:
        child.kill_group()
        for fd in (stdin, here, stdout, null):
            os.close(fd)
    assert node.leftovers() == []
    assert not is_claimed(user.uid)


@pytest.mark.needs_root
async def test_a_process_that_gave_up_its_claim_is_still_found_by_its_user(node: VMNode) -> None:
    VMDirectory.of(node.paths, VM_ID).create_data()
    user = lease_uid(node.paths.vm_data_dir, VM_ID, UIDS.start, 1)
    # A guest that took over its QEMU can close what that inherited.
    with running(uid=user.uid) as child:
        user.close()
        await became(child, user.uid)
        with pytest.raises(HostError, match="still runs"):
            VMDirectory.of(node.paths, VM_ID).remove()
        assert await node.supervisor.reconcile() == [VM_ID]
        assert not is_alive(child.process)
    assert node.leftovers() == []


@pytest.mark.needs_root
async def test_a_process_that_poses_as_a_zombie_is_still_found_and_ended(node: VMNode) -> None:
    VMDirectory.of(node.paths, VM_ID).create_data()
    user = lease_uid(node.paths.vm_data_dir, VM_ID, UIDS.start, 1)
    with running(uid=user.uid, program=HEADLESS) as child:
        user.close()
        stat = Path(f"/proc/{child.process.pid}/stat")
        await until(stat.read_text, lambda text: ") Z " in text, "the first thread's end")
        assert child.exit_status() is None
        assert is_alive(child.process)
        with pytest.raises(HostError, match="still runs"):
            VMDirectory.of(node.paths, VM_ID).remove()
        with pytest.raises(HostError, match="runs as it"):
            UserClaim.take(user.uid, VMDirectory.of(node.paths, VM_ID).data)
        assert await node.supervisor.reconcile() == [VM_ID]
        assert not is_alive(child.process)
        await until(child.exit_status, lambda status: status is not None, "its end")
    assert node.leftovers() == []


@pytest.mark.needs_root
async def test_a_claim_that_a_vm_has_handed_on_keeps_nothing_of_the_vm(node: VMNode) -> None:
    vm = await node.start(node.request())
    uid = vm.state.uid
    assert uid is not None
    # A guest that has taken over its QEMU can pass it to that of another guest, over a socket.
    [claim] = [
        descriptor
        for descriptor in Path(f"/proc/{vm.process.pid}/fd").iterdir()
        if descriptor.readlink() == CLAIMS_DIR / str(uid)
    ]
    pidfd = os.pidfd_open(vm.process.pid)
    copy = ctypes.CDLL(None).syscall(438, pidfd, int(claim.name), 0)
    os.close(pidfd)
    try:
        await node.supervisor.destroy(vm)
        assert is_claimed(uid)
        # The user is not given to another VM as long as somebody could pass for a launcher of it.
        assert uid_leases(node.paths.vm_data_dir) == {uid: vm.record.vm_id}
        assert not vm.directory.data.exists()
    finally:
        os.close(copy)
    assert await node.supervisor.reconcile() == []
    assert node.leftovers() == []


@pytest.mark.needs_root
async def test_a_vm_that_runs_keeps_its_files_though_its_claim_and_its_state_are_lost(
    node: VMNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = await node.start(node.request())
    await node.crash()
    # /run was wiped, and state.json is damaged.
    (CLAIMS_DIR / str(vm.state.uid)).unlink()
    shutil.rmtree(vm.directory.run)
    vm.directory.state_file.write_text("{")
    monkeypatch.setattr(reconcile, "EVIDENCE_GRACE_S", 0.0)
    later = VMNode(node.root, node.image)
    try:
        assert await later.supervisor.reconcile() == []
        assert vm.directory.overlay.exists()
        assert uid_leases(node.paths.vm_data_dir) == {vm.state.uid: vm.record.vm_id}
    finally:
        await kill(vm.process)
    assert await later.supervisor.reconcile() == [vm.record.vm_id]
    assert node.leftovers() == []
    await later.close()


@pytest.mark.needs_root
async def test_a_user_that_a_foreign_process_runs_as_is_not_given_to_a_vm(
    short_tmp_path: Path, image: Path
) -> None:
    node = VMNode(short_tmp_path, image, qemu=QemuConfig(first_uid=UIDS.start, uid_count=1))
    with running(uid=UIDS.start) as child:
        await became(child, UIDS.start)
        with pytest.raises(HostError, match=f"process {child.process.pid}") as caught:
            await node.start(node.request())
    assert caught.value.hint is not None
    assert "qemu.first_uid" in caught.value.hint
    assert node.leftovers() == []
    await node.close()


@pytest.mark.needs_root
def test_a_claim_lasts_as_long_as_a_process_that_inherited_it(tmp_path: Path) -> None:
    user = UserClaim.take(UIDS.start, tmp_path)
    assert user is not None
    with running(pass_fds=(user.fd,)):
        user.close()
        assert is_claimed(UIDS.start)
        assert UserClaim.take(UIDS.start, tmp_path) is None
    again = UserClaim.take(UIDS.start, tmp_path)
    assert again is not None
    again.close()
