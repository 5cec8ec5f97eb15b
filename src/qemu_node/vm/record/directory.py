"""Where one VM's files are, and who may touch them.

Owns the layout of a VM's two directories, their permissions and their lock.

    <data>/vm/<vm_id>/       0711, ours     what must survive a wiped /run
        base.img             ours, 0444     a hard link to the cached image that the overlay lies on
        state.json           ours           VMState; it means that the start was completed
        exit.json            ours           VMExit, once the end is known
        node-stop            ours           the VM was told to end because its node goes down
        overlay.qcow2 varstore.fd config-drive.iso serial.log    the VM's user
        tpm/                 the VM's user: for the state of a TPM, which no VM has yet
        qemu.log             ours           QEMU's stderr
    <run>/vm/<vm_id>/        01771, ours    QEMU may add its VNC socket, and remove nothing else
        vm.json usage.json   ours, 0644; read by `read_published` alone
        qmp.sock             0600, ours: QMP for the driver alone
        monitor.sock         0660, group qemu-node: QMP for the command
        console.sock         0660, group qemu-node: QMP for the daemon
        qga.sock serial.sock 0660, group qemu-node; vnc.sock too, but with 0770, as QEMU makes it
        qga.lock             0660, group qemu-node: held by whoever has qga.sock
    <data>/vm/.uid/<uid>     the vm_id that runs as this user

The lock is flock(2) on the data directory itself: held by the driver that manages the VM for as
long as it does, and released by the kernel whatever ends that driver. There is no lock file to
leave behind.

Nothing here waits for the disk (`write_atomic` without `is_durable`): a VM ends with the power, and
what a power cut leaves of its files says no more than that.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qemu_node.config.node import Paths
from qemu_node.errors import AS_ROOT, NodeError
from qemu_node.host.files import atomic, tree
from qemu_node.host.files.directories import make_directory, open_directory
from qemu_node.host.files.lock import try_lock
from qemu_node.host.process.identity import boot_id
from qemu_node.images.store.blob import BASE_NAME
from qemu_node.text import DECODE_ERRORS
from qemu_node.vm.names import STATE_NAME, VM_ID, check_vm_id
from qemu_node.vm.record.leases import check_unused, leased_uids, release_uids
from qemu_node.vm.record.outcome import VMExit, is_nodes_end
from qemu_node.vm.record.record import (
    SocketPaths,
    StateError,
    StateHeader,
    VMState,
    read_record_header,
)

# The VM's user must reach its own files there, and is not to see others'.
_PASS_MODE = 0o711
# Everybody may see which VMs there are.
_LIST_MODE = 0o755


class VMBusyError(NodeError):
    """Another process manages this VM; nothing was changed."""

    retry = True


@dataclass(frozen=True, slots=True)
class VMDirectory:
    """The two directories of one VM; what writes there raises `HostError` if the host refuses."""

    data: Path
    run: Path

    @classmethod
    def of(cls, paths: Paths, vm_id: str) -> "VMDirectory":
        """Return the directories of `vm_id`, which need not exist.

        Raises:
            VMIdError: it is no VM's id; as a path it could lead anywhere.
        """
        check_vm_id(vm_id)
        return cls(data=paths.vm_data_dir / vm_id, run=paths.vm_run_dir / vm_id)

    @classmethod
    def of_state(cls, state: StateHeader, paths: Paths) -> "VMDirectory":
        """Return the directories that `state` names, whatever node.toml says now."""
        if state.data_dir is not None and state.run_dir is not None:
            return cls(data=Path(state.data_dir), run=Path(state.run_dir))
        usual = cls.of(paths, state.vm_id)
        return cls(
            data=usual.data if state.data_dir is None else Path(state.data_dir),
            run=usual.run if state.run_dir is None else Path(state.run_dir),
        )

    @property
    def vm_id(self) -> str:
        """The VM's name on this node."""
        return self.data.name

    @property
    def base(self) -> Path:
        """The VM's own name for the cached image below its overlay."""
        return self.data / BASE_NAME

    @property
    def overlay(self) -> Path:
        """The VM's disk."""
        return self.data / "overlay.qcow2"

    @property
    def varstore(self) -> Path:
        """The VM's UEFI variables."""
        return self.data / "varstore.fd"

    @property
    def config_drive(self) -> Path:
        """The ISO that the guest configures itself from."""
        return self.data / "config-drive.iso"

    @property
    def serial_log(self) -> Path:
        """What the guest printed and the driver has not yet put into the task's log."""
        return self.data / "serial.log"

    @property
    def qemu_log(self) -> Path:
        """What QEMU wrote to stderr."""
        return self.data / "qemu.log"

    @property
    def state_file(self) -> Path:
        """VMState; written last in a start."""
        return self.data / STATE_NAME

    @property
    def exit_file(self) -> Path:
        """VMExit; written before the act that destroys the evidence."""
        return self.data / "exit.json"

    @property
    def node_stop_file(self) -> Path:
        """There before the VM is asked to end because its node goes down."""
        return self.data / "node-stop"

    @property
    def vm_json(self) -> Path:
        """VMRecord for the daemon and the command line."""
        return self.run / "vm.json"

    @property
    def usage_json(self) -> Path:
        """What only root can read cheaply."""
        return self.run / "usage.json"

    @property
    def qga_lock(self) -> Path:
        """Held by whoever speaks to the guest agent, whose socket serves one client."""
        return self.run / "qga.lock"

    def socket(self, name: str) -> Path:
        """Return where a driver of today puts the socket `name` of a VM that it starts."""
        return self.run / f"{name}.sock"

    def socket_paths(self) -> SocketPaths:
        """Return where it puts all of them."""
        names = SocketPaths.__struct_fields__
        return SocketPaths(**{name: str(self.socket(name)) for name in names})

    def create_data(self) -> None:
        """Make the data directory and its parents."""
        open_directory(self.data.parent.parent, _PASS_MODE)
        open_directory(self.data.parent, _PASS_MODE)
        make_directory(self.data, _PASS_MODE)

    def create_run(self, gid: int | None, shared_gid: int | None = None) -> None:
        """Make the run directory, and in it the lock of the guest agent.

        The sticky bit lets QEMU bind its VNC socket there but neither remove nor replace vm.json.

        Args:
            gid: The VM's own group, which may add to the directory.
            shared_gid: The group that may use the guest agent, so take its lock.
        """
        open_directory(self.run.parent.parent, _LIST_MODE)
        open_directory(self.run.parent, _LIST_MODE)
        make_directory(self.run, 0o700 if gid is None else 0o1771, gid=gid)
        if shared_gid is not None:
            # Made before QEMU can put something else there.
            owner = (os.geteuid(), shared_gid)
            atomic.write_atomic(self.qga_lock, b"", mode=0o660, owner=owner)

    def is_fresh(self) -> bool:
        """Tell whether nothing of a VM is here yet but the empty data directory."""
        return not any(self.data.iterdir()) and not self.run.exists()

    def read_state(self) -> VMState | None:
        """Return the written state, or None where a start was never completed.

        Raises:
            StateError: it is there and cannot be read; the VM may run. vm.json helps out with the
                error's `header`.
        """
        try:
            data = self.state_file.read_bytes()
            state = VMState.decode(data, str(self.state_file))
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StateError(
                f"{self.state_file} cannot be read: {exc.strerror}", header=self._published()
            ) from exc
        except StateError as exc:
            exc.header = exc.header or self._published()
            raise
        if state.vm_id != self.vm_id:
            raise StateError(f"{self.state_file} is of another VM, {state.vm_id}")
        return state

    def _published(self) -> StateHeader | None:
        """Return what vm.json says about a VM whose state.json is lost; it is gone after a boot."""
        record = read_record_header(self.vm_json)
        if record is None:
            return None
        return StateHeader(
            vm_id=record.vm_id, task_id="", boot_id=boot_id(), record=record, uid=None
        )

    def publish(self, state: VMState) -> None:
        """Write state.json and vm.json; the VM is known from here on."""
        atomic.write_atomic(self.vm_json, msgspec.json.encode(state.record), mode=0o644)
        atomic.write_atomic(self.state_file, state.encode(), mode=0o600)

    def read_exit(self) -> VMExit | None:
        """Return the written end of the VM, or None."""
        with contextlib.suppress(OSError, *DECODE_ERRORS):
            return msgspec.json.decode(self.exit_file.read_bytes(), type=VMExit)
        return None

    def write_exit(self, outcome: VMExit) -> None:
        """Write down how the VM ended."""
        atomic.write_atomic(self.exit_file, msgspec.json.encode(outcome), mode=0o600)

    def mark_node_stop(self) -> None:
        """Write down that the VM's end, which follows, is its node's."""
        atomic.write_atomic(self.node_stop_file, b"", mode=0o600)

    def forget_node_stop(self) -> None:
        """Have an end of the VM count again: it has survived."""
        with contextlib.suppress(OSError):
            self.node_stop_file.unlink(missing_ok=True)

    def ended_with_node(self, state: StateHeader) -> bool:
        """Tell whether a VM that does not run was ended by its node, and not by itself."""
        return not state.is_running and is_nodes_end(
            is_marked=self.node_stop_file.exists(),
            is_end_written=self.exit_file.exists(),
            is_same_boot=state.boot_id == boot_id(),
        )

    def remove(self, uid: int | None = None) -> None:
        """Remove both directories, then the user's lease; what is missing is fine.

        Args:
            uid: The user id that the VM has leased; looked for among all leases if None.

        Raises:
            HostError: a process of the VM lives and nothing was removed; or something cannot be.
        """
        uids = leased_uids(self.data.parent, self.vm_id, uid)
        check_unused(self.data, uids)
        tree.remove_tree(self.run)
        tree.remove_tree(self.data)
        # Last: a VM that gets the user next could open what is still there.
        release_uids(self.data, uids)


class DirectoryLock:
    """The right to manage one VM. Ends with `release`, or with the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def try_acquire(cls, directory: Path) -> "DirectoryLock | None":
        """Return the lock on `directory`, or None where another holds it or it does not exist."""
        try:
            fd = try_lock(directory, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if fd is None else cls(fd)

    def release(self) -> None:
        """Let others manage the VM; harmless when done twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def known_vm_ids(paths: Paths) -> set[str]:
    """Return the VMs of this node, live or not; for callers that may list its data directory.

    That is the one made first and removed last. A run directory alone is another node's, which has
    the same `paths.run`.
    """
    return _vm_ids_in(paths.vm_data_dir)


def visible_vm_ids(paths: Paths) -> set[str]:
    """Return the VMs of which we may see a directory: for others than the driver the published.

    Raises:
        HostError: not even those can be listed.
    """
    try:
        published = _vm_ids_in(paths.vm_run_dir)
    except OSError as exc:
        error = atomic.host_error("list the VMs in", paths.vm_run_dir, exc)
        if isinstance(exc, PermissionError):
            error.hint = AS_ROOT
        raise error from exc
    with contextlib.suppress(PermissionError):
        return published | known_vm_ids(paths)
    return published


def _vm_ids_in(parent: Path) -> set[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return {entry.name for entry in os.scandir(parent) if VM_ID.fullmatch(entry.name)}
    return set()
