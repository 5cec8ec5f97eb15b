"""The steps of a VM's start, each with its undo.

Owns what each step makes and how it is taken back. Does not own their order (`launch`). Each step
is announced with its name in the log (`start step`), so that a test can end the driver at any of
them, and registers its undo before the next one begins.
"""

import contextlib
import logging
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import msgspec

from qemu_node import configdrive
from qemu_node.configdrive import ConfigDrive
from qemu_node.host.cgroup import Scope
from qemu_node.host.concurrency.cancellation import Undo
from qemu_node.host.concurrency.threads import acquire_in_thread, to_the_end
from qemu_node.host.files import atomic
from qemu_node.host.process.command import Child
from qemu_node.host.process.users import UserClaim
from qemu_node.images.cache import CachedImage
from qemu_node.images.errors import ImageGoneError
from qemu_node.images.format.overlay import write_overlay
from qemu_node.images.store.base import link_base
from qemu_node.qemu.cmdline import build_argv
from qemu_node.qemu.firmware import Firmware, ensure_varstore
from qemu_node.qemu.process import start_qemu
from qemu_node.qemu.spec import (
    BaseImage,
    DiskFormat,
    PflashFirmware,
    VMSpec,
)
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.network import VMPorts
from qemu_node.vm.node import Hypervisor, Node, Tell
from qemu_node.vm.output.greeting import greet
from qemu_node.vm.output.serialbound import create_log
from qemu_node.vm.record.directory import DirectoryLock, VMDirectory
from qemu_node.vm.record.leases import lease_uid
from qemu_node.vm.record.record import StateError, StateHeader, VMState
from qemu_node.vm.record.removal import claim, kill, remove_files
from qemu_node.vm.start.download import fetch_image
from qemu_node.vm.start.listeners import Listeners
from qemu_node.vm.start.request import VMRequest

log = logging.getLogger(__name__)

_IMAGE_TRIES = 4


class StartStep(StrEnum):
    """The steps of a start, in order."""

    CLAIM = "claim"
    IMAGE = "image"
    BASE = "base"
    USER = "user"
    OVERLAY = "overlay"
    VARSTORE = "varstore"
    CONFIG_DRIVE = "config-drive"
    SOCKETS = "sockets"
    NETWORK = "network"
    CGROUP = "cgroup"
    SPAWN = "spawn"
    QMP = "qmp"
    PUBLISH = "publish"


class Start:
    """The steps of one start; each pushes its undo."""

    def __init__(self, request: VMRequest, node: Node, tell: Tell, undo: Undo) -> None:
        self.directory = VMDirectory.of(node.paths, request.identity.vm_id)
        self._request = request
        self._node = node
        self._tell = tell
        self._undo = undo
        self._uid: int | None = None
        self._disk_bytes = 0
        self._user: UserClaim | None = None

    @property
    def _owner(self) -> tuple[int, int] | None:
        """User and group of what QEMU opens: its own, the group has the same number."""
        return None if self._uid is None else (self._uid, self._uid)

    def _announce(self, step: StartStep) -> None:
        log.debug("start step", extra={"step": step.value, "vm_id": self.directory.vm_id})

    async def _remove(self) -> None:
        await remove_files(self.directory, self._uid)

    async def claim(self) -> DirectoryLock:
        """Return the lock on the VM's directory, which is fresh."""
        self._announce(StartStep.CLAIM)
        left_over: StateHeader | None
        try:
            left_over = await to_the_end(self.directory.read_state)
        except StateError as exc:
            left_over = exc.header
        lock = await claim(self.directory)
        self._undo.callback(lock.release)
        self._undo.push_async_callback(self._remove)
        if left_over is not None:
            # Nobody has given up its ports, which may have been other than those to come.
            await self._node.network.detach(left_over.record.ports)
        return lock

    async def take_image(
        self, on_long_wait: Callable[[], None] = lambda: None
    ) -> tuple[CachedImage, BaseImage]:
        """Return the image, and the file that QEMU is to open.

        The cache may remove an image until the VM has its own name for it. Then it is asked again,
        which ends: a sweep removes what nobody uses, once a minute.
        """
        for _ in range(_IMAGE_TRIES - 1):
            with contextlib.suppress(ImageGoneError):
                return await self._take_image(on_long_wait)
        return await self._take_image(on_long_wait)

    async def _take_image(self, on_long_wait: Callable[[], None]) -> tuple[CachedImage, BaseImage]:
        self._announce(StartStep.IMAGE)
        image = await fetch_image(self._request, self._node, self._tell, on_long_wait)
        try:
            base = await self._base_of(image)
        except BaseException:
            image.close()
            raise
        self._undo.callback(image.close)
        return image, base

    async def _base_of(self, image: CachedImage) -> BaseImage:
        self._announce(StartStep.BASE)
        image_format = DiskFormat(image.format.value)
        if image.digest is None:
            # Used in place. Whoever may write to the task's directory may replace what the path
            # names; the descriptor is the file that was checked.
            return BaseImage(path=image.path, format=image_format, fd=image.fd)
        await to_the_end(link_base, image.path, image.fd, self.directory.base)
        return BaseImage(path=self.directory.base, format=image_format)

    async def lease_user(self) -> int | None:
        """Return the user id that QEMU will run as; None without root."""
        self._announce(StartStep.USER)
        if self._node.is_root:
            # The lease itself goes with the directory, whoever has it.
            user = await acquire_in_thread(
                lease_uid,
                UserClaim.close,
                self._node.paths.vm_data_dir,
                self.directory.vm_id,
                self._node.qemu.first_uid,
                self._node.qemu.uid_count,
            )
            self._undo.callback(user.close)
            self._user, self._uid = user, user.uid
        return self._uid

    async def write_overlay(self, image: CachedImage, base: BaseImage) -> None:
        """Make the VM's disk on top of `base`."""
        self._announce(StartStep.OVERLAY)
        self._disk_bytes = max(image.virtual_size_bytes, self._request.disk_size_bytes or 0)
        await to_the_end(
            write_overlay,
            self.directory.overlay,
            base=base.path,
            base_fd=image.fd,
            base_format=image.format,
            virtual_size_bytes=self._disk_bytes,
            owner=self._owner,
        )

    async def copy_varstore(self, firmware: Firmware | None) -> PflashFirmware | None:
        """Return the firmware with the VM's own UEFI variables; None for BIOS."""
        self._announce(StartStep.VARSTORE)
        if firmware is None:
            return None
        await to_the_end(
            ensure_varstore, firmware.varstore_template, self.directory.varstore, self._owner
        )
        return PflashFirmware(
            code=firmware.code, varstore=self.directory.varstore, is_secure=firmware.is_secure
        )

    async def write_config_drive(self) -> ConfigDrive:
        """Return the config drive that was written from the task's directory."""
        self._announce(StartStep.CONFIG_DRIVE)
        identity = self._request.identity
        drive = configdrive.complete(
            await to_the_end(configdrive.read_config_drive, self._request.task_dir),
            uuid=identity.uuid,
            hostname=identity.hostname,
            name=identity.hostname,
        )
        await to_the_end(
            configdrive.write_iso, self.directory.config_drive, drive.files, self._owner
        )
        return drive

    def listen(self) -> Listeners:
        """Return the VM's sockets, listening."""
        self._announce(StartStep.SOCKETS)
        self.directory.create_run(self._uid)
        listeners = Listeners(self.directory, self._node.shared_gid)
        self._undo.callback(listeners.close)
        return listeners

    async def attach(self) -> VMPorts:
        """Return the VM's ports of the bridge; user mode is guarded."""
        self._announce(StartStep.NETWORK)
        wanted = self._request.ports
        if len(wanted) < len(self._request.nics):
            self._undo.push_async_callback(self._node.network.unguard_host, self.directory.vm_id)
            await self._node.network.guard_host(self.directory.vm_id)
        ports = await self._node.network.attach(wanted)
        self._undo.push_async_callback(self._node.network.detach, wanted)
        self._undo.push_async_callback(ports.close)
        return ports

    def limit(self) -> Scope | None:
        """Return the task's cgroup with its limits set; None if the task has no cgroup."""
        self._announce(StartStep.CGROUP)
        scope = Scope.find(self._request.scope)
        if scope is not None:
            scope.apply(self._request.limits)
        return scope

    async def spawn(
        self,
        spec: VMSpec,
        hypervisor: Hypervisor,
        listeners: Listeners,
        ports: VMPorts,
        scope: Scope | None,
    ) -> Child:
        """Return QEMU's process, which has inherited sockets, ports and the claim on its user."""
        self._announce(StartStep.SPAWN)
        create_log(self.directory.serial_log, self._owner, disk_bytes=self._disk_bytes)
        inherited = () if spec.base is None or spec.base.fd is None else (spec.base.fd,)
        child = await start_qemu(
            build_argv(spec, hypervisor.binary.path, hypervisor.binary.version),
            uid=self._uid,
            gid=self._uid,
            groups=() if self._node.kvm_gid is None else (self._node.kvm_gid,),
            cgroup_procs=None if scope is None else scope.procs_path,
            stderr_path=self.directory.qemu_log,
            pass_fds=(*listeners.all_fds, *inherited, *ports.all_fds, *self._claims()),
        )
        self._undo.callback(child.exit_status)
        self._undo.push_async_callback(kill, child.process)
        # From here QEMU alone holds them: its end is seen as a closed connection, and takes its
        # TAPs with it.
        listeners.close()
        if self._user is not None:
            self._user.close()
        await ports.close()
        return child

    def _claims(self) -> tuple[int, ...]:
        """Return what makes the claim on the VM's user last as long as its processes."""
        return () if self._user is None else (self._user.fd,)

    async def greet(self, child: Child) -> QmpConnection:
        """Return a connection to QEMU once it answers."""
        self._announce(StartStep.QMP)
        qmp = await greet(self.directory, child)
        self._undo.push_async_callback(qmp.close)
        _open_vnc_to_group(self.directory.run / "vnc.sock", self._node)
        return qmp

    async def publish(self, state: VMState) -> None:
        """Make the VM known; from here on it is not a failed start."""
        self._announce(StartStep.PUBLISH)
        await to_the_end(publish, self.directory, state)


def publish(directory: VMDirectory, state: VMState) -> None:
    """Write state.json and vm.json; the VM is known from here on.

    Raises:
        HostError: the disk is full, say.
    """
    atomic.write_atomic(directory.vm_json, msgspec.json.encode(state.record), mode=0o644)
    atomic.write_atomic(directory.state_file, state.encode(), mode=0o600)


def _open_vnc_to_group(path: Path, node: Node) -> None:
    """Let the daemon's group use the VNC socket, which QEMU itself has made."""
    if node.is_root and node.shared_gid is not None:
        try:
            os.chown(path, -1, node.shared_gid, follow_symlinks=False)
        except OSError as exc:
            log.warning("VNC socket stays closed to the daemon", extra={"error": str(exc)})
