"""A VM's QEMU: what it inherits, its process, its greeting.

Owns the steps of a start from the sockets to the published VM. Sockets and TAPs are made by us and
inherited by QEMU: so there is no moment at which a socket is not there yet, its mode and group are
ours to choose, and QEMU needs no right to make a TAP.
"""

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from qemu_node.errors import HostError, QmpError
from qemu_node.host import sockets
from qemu_node.host.cgroup import Scope
from qemu_node.host.concurrency.cancellation import race
from qemu_node.host.concurrency.threads import to_the_end
from qemu_node.host.process.command import Child
from qemu_node.host.process.exitstatus import describe_exit, with_last_words
from qemu_node.host.process.pidfd import wait_gone
from qemu_node.qemu.cmdline import build_argv
from qemu_node.qemu.spec import SocketFds, VMSpec
from qemu_node.qemu.startqemu import start_qemu
from qemu_node.qmp import commands as qmp_commands
from qemu_node.qmp.connection import QmpConnection
from qemu_node.vm.hypervisor import Hypervisor
from qemu_node.vm.output.serialbound import create_log
from qemu_node.vm.output.vmlogs import last_words_of
from qemu_node.vm.record.directory import VMDirectory
from qemu_node.vm.record.record import VMState
from qemu_node.vm.record.removal import kill
from qemu_node.vm.start.steps import ClaimedDirectory, Start, StartStep, VMUser
from qemu_node.vm.start.vmfiles import Disk
from qemu_node.vm.vmnetwork import Network, VMPorts

log = logging.getLogger(__name__)

_QMP_TIMEOUT_S = 60.0
"""Bound for QEMU to greet. It takes 30 ms on an idle host; a loaded one swaps and compiles."""

_END_TIMEOUT_S = 1.0
"""How long a QEMU that has closed its control socket may take to exit."""


class Listeners:
    """A VM's listening sockets, ours until QEMU has inherited them."""

    def __init__(self, directory: VMDirectory, shared_gid: int | None) -> None:
        """Listen on the sockets of `directory`, which members of group `shared_gid` may use too.

        `qmp.sock` is the driver's alone: another client there would lock the driver out.

        Raises:
            HostError: one of them cannot be made; none is left.
        """
        self.all_fds: list[int] = []
        owner = None if shared_gid is None else (os.geteuid(), shared_gid)

        def listen(name: str, mode: int, owner: tuple[int, int] | None) -> int:
            fd = sockets.listen_unix(directory.socket(name), mode=mode, owner=owner)
            self.all_fds.append(fd)
            return fd

        try:
            self.fds = SocketFds(
                qmp=listen("qmp", 0o600, None),
                monitor=listen("monitor", 0o660, owner),
                console=listen("console", 0o660, owner),
                qga=listen("qga", 0o660, owner),
                serial=listen("serial", 0o660, owner),
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close our copies. Idempotent."""
        while self.all_fds:
            os.close(self.all_fds.pop())


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCgroup:
    """The task's cgroup, with its limits set."""

    scope: Scope | None
    """None: the task has none."""
    oom_kills: int
    """OOM kills there before QEMU's start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What QEMU is started with, beside its command line."""

    user: VMUser
    disk: Disk
    listeners: Listeners
    ports: VMPorts
    cgroup: TaskCgroup

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors that QEMU inherits.

        The claim on its user among them: it lasts as long as the VM's processes.
        """
        base, claim = self.disk.base.fd, self.user.claim
        return (
            *self.listeners.all_fds,
            *(() if base is None else (base,)),
            *self.ports.all_fds,
            *(() if claim is None else (claim.fd,)),
        )


def listen(
    start: Start, directory: ClaimedDirectory, user: VMUser, shared_gid: int | None
) -> Listeners:
    """Return the VM's sockets, listening; group `shared_gid` may use them, too."""
    start.announce(StartStep.SOCKETS)
    directory.files.create_run(user.uid, shared_gid)
    listeners = Listeners(directory.files, shared_gid)
    start.undo.callback(listeners.close)
    return listeners


async def attach(start: Start, directory: ClaimedDirectory, network: Network) -> VMPorts:
    """Return the VM's ports of the bridge; user mode is guarded."""
    start.announce(StartStep.NETWORK)
    request = start.request
    if len(request.ports) < len(request.nics):
        start.undo.push_async_callback(network.unguard_host, directory.files.vm_id)
        await network.guard_host(directory.files.vm_id)
    ports = await network.attach(request.ports)
    start.undo.push_async_callback(network.detach, request.ports)
    start.undo.push_async_callback(ports.close)
    return ports


def limit(start: Start) -> TaskCgroup:
    """Return the task's cgroup with its limits set."""
    start.announce(StartStep.CGROUP)
    scope = Scope.find(start.request.scope)
    if scope is None:
        return TaskCgroup(scope=None, oom_kills=0)
    scope.apply(start.request.limits)
    return TaskCgroup(scope=scope, oom_kills=scope.oom_kills())


async def spawn(
    start: Start,
    directory: ClaimedDirectory,
    spec: VMSpec,
    hypervisor: Hypervisor,
    inherited: Inherited,
) -> Child:
    """Return QEMU's process, which has inherited sockets, ports and the claim on its user."""
    start.announce(StartStep.SPAWN)
    user, scope = inherited.user, inherited.cgroup.scope
    serial_log, size_bytes = directory.files.serial_log, inherited.disk.size_bytes
    create_log(serial_log, user.owner, disk_bytes=size_bytes)
    child = await start_qemu(
        build_argv(spec, hypervisor.binary.path, hypervisor.binary.version),
        uid=user.uid,
        gid=user.uid,
        groups=user.groups,
        cgroup_procs=None if scope is None else scope.procs_path,
        stderr_path=directory.files.qemu_log,
        pass_fds=inherited.fds,
    )
    start.undo.callback(child.exit_status)
    start.undo.push_async_callback(kill, child.process)
    # From here QEMU alone holds them: its end is seen as a closed connection, and takes its TAPs
    # with it.
    inherited.listeners.close()
    if user.claim is not None:
        user.claim.close()
    await inherited.ports.close()
    return child


async def connect(
    start: Start, directory: ClaimedDirectory, child: Child, shared_gid: int | None
) -> QmpConnection:
    """Return a connection to QEMU once it answers; group `shared_gid` may use its VNC socket."""
    start.announce(StartStep.QMP)
    qmp = await greet(directory.files, child)
    start.undo.push_async_callback(qmp.close)
    if shared_gid is not None:
        _open_to_group(directory.files.socket("vnc"), shared_gid)
    return qmp


async def greet(directory: VMDirectory, child: Child) -> QmpConnection:
    """Return the control connection once QEMU has greeted and runs the guest.

    Raises:
        HostError: QEMU ended first, with its last words, or did not greet in time.
    """
    try:
        _, qmp = await race(
            _first_answer(directory), _until_gone(directory, child), discard=QmpConnection.close
        )
    except QmpError as exc:
        # When QEMU ends, its connection closes first; the end is what to report.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_TIMEOUT_S):
                await _until_gone(directory, child)
        raise HostError(with_last_words(str(exc), last_words_of(directory))) from exc
    return qmp


async def _first_answer(directory: VMDirectory) -> QmpConnection:
    qmp = await QmpConnection.connect(Path(directory.socket_paths().qmp), timeout_s=_QMP_TIMEOUT_S)
    try:
        await qmp_commands.query_status(qmp)
    except BaseException:
        await qmp.close()
        raise
    return qmp


async def _until_gone(directory: VMDirectory, child: Child) -> QmpConnection:
    """Raise once QEMU is gone."""
    await wait_gone(child.process)
    status = child.exit_status()
    # None: somebody else has reaped it.
    how = "ended" if status is None else describe_exit(status)
    problem = f"QEMU {how} during the start"
    raise HostError(with_last_words(problem, last_words_of(directory)))


def _open_to_group(vnc: Path, gid: int) -> None:
    """Let the daemon's group use the VNC socket, which QEMU itself has made."""
    try:
        os.chown(vnc, -1, gid, follow_symlinks=False)
    except OSError as exc:
        log.warning("VNC socket stays closed to the daemon", extra={"error": str(exc)})


async def publish(start: Start, directory: ClaimedDirectory, state: VMState) -> None:
    """Make the VM known; from here on it is not a failed start."""
    start.announce(StartStep.PUBLISH)
    await to_the_end(directory.files.publish, state)
