"""What is written down about a VM: vm.json for everyone on the node, the state for its driver.

Owns the two formats. Both are versioned JSON; readers ignore keys that they do not know, so that an
older daemon can read a newer driver's files.
"""

from pathlib import Path
from typing import Literal

import msgspec

from qemu_node.decoding import DECODE_ERRORS
from qemu_node.errors import NodeError
from qemu_node.host.process import ProcessId, boot_id, is_alive
from qemu_node.net.spec import PortSpec

RECORD_VERSION = 1


class StateError(NodeError):
    """A written state cannot be read: damaged, or of another version."""


class ForwardRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A host port that leads to a guest port."""

    label: str
    host_ip: str
    host_port: int
    guest_port: int


class NicRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's network interface as the node set it up: all that is needed to do it again."""

    mode: str
    """`user`, or `vlan` for a port of the bridge."""
    mac: str
    forwards: tuple[ForwardRecord, ...] = ()
    ifname: str | None = None
    """The port's TAP; None in user mode."""
    vlan: int | None = None
    trunk: tuple[int, ...] = ()
    isolated: bool = False
    queues: int = 1
    mtu: int | None = None
    rate_mbit: int | None = None
    addresses: tuple[str, ...] = ()
    """Networks that the guest's addresses on this NIC must be in; none: any."""

    @classmethod
    def of_port(cls, port: PortSpec) -> "NicRecord":
        """Return what is written down of a port of the bridge."""
        return cls(
            mode="vlan",
            mac=port.mac,
            ifname=port.ifname,
            vlan=port.vlan,
            trunk=port.trunk,
            isolated=port.isolated,
            queues=port.queues,
            mtu=port.mtu,
            rate_mbit=port.rate_mbit,
            addresses=port.addresses,
        )


class SocketPaths(msgspec.Struct, frozen=True, kw_only=True):
    """Absolute paths of a VM's sockets."""

    qmp: str
    """QMP for the driver alone."""
    monitor: str
    """QMP for the daemon and the command line."""
    qga: str
    vnc: str
    serial: str


class VMRecord(msgspec.Struct, frozen=True, kw_only=True):
    """vm.json: what the daemon and the command line need to know. No secrets; sizes in bytes."""

    version: int = RECORD_VERSION
    vm_id: str
    alloc_id: str
    namespace: str
    job_id: str
    job_name: str
    group: str
    task: str
    index: int | None
    node_name: str
    pid: int
    start_time: int
    uuid: str
    hostname: str
    os: str
    firmware: str
    accelerator: str
    image: str
    vcpus: int
    memory_bytes: int
    """Guest RAM."""
    memory_min_bytes: int
    memory_max_bytes: int
    nics: tuple[NicRecord, ...]
    sockets: SocketPaths
    qga_lock: str
    allow_exec: bool
    alloc_dir: str
    created_at: str
    """RFC 3339, UTC."""

    @property
    def ports(self) -> tuple[PortSpec, ...]:
        """The VM's ports of the bridge."""
        return tuple(
            PortSpec(
                vm_id=self.vm_id,
                index=index,
                ifname=nic.ifname,
                mac=nic.mac,
                vlan=nic.vlan,
                trunk=nic.trunk,
                isolated=nic.isolated,
                queues=nic.queues,
                mtu=nic.mtu,
                rate_mbit=nic.rate_mbit,
                addresses=nic.addresses,
            )
            for index, nic in enumerate(self.nics)
            if nic.ifname is not None
        )

    @property
    def has_user_mode(self) -> bool:
        """Whether one of its NICs is in user mode."""
        return any(nic.ifname is None for nic in self.nics)

    @property
    def process(self) -> ProcessId:
        """The VM's QEMU process."""
        return ProcessId(pid=self.pid, start_time=self.start_time)

    @property
    def display_name(self) -> str:
        """`job/group[index]/task`, as people refer to it; a task named like its group once."""
        index = "" if self.index is None else f"[{self.index}]"
        task = "" if self.task == self.group else f"/{self.task}"
        return f"{self.job_name}/{self.group}{index}{task}"


class HealthEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where the driver answers for the guest agent of one VM."""

    host_ip: str
    port: int


class VMState(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver needs to take up a VM again: Nomad's driver_state, and state.json.

    Nomad keeps driver_state unencrypted and does not send the job's options again after an agent
    restart, so everything needed is here and nothing secret.
    """

    version: Literal[1] = 1
    vm_id: str
    task_id: str
    boot_id: str
    """The boot that `record.process` is of: after another one its numbers may be anyone's."""
    record: VMRecord
    uid: int | None
    """The user that QEMU runs as; None: ours."""
    scope: str | None
    """Nomad's cgroup v2 scope of the task."""
    health: HealthEndpoint | None

    @property
    def is_running(self) -> bool:
        """Whether the VM's process lives."""
        return self.boot_id == boot_id() and is_alive(self.record.process)

    def encode(self) -> bytes:
        """Return this as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes, origin: str) -> "VMState":
        """Return the state in `data`.

        Raises:
            StateError: `data` is damaged or of another version; `origin` is named.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except DECODE_ERRORS as exc:
            raise StateError(f"the VM state in {origin} cannot be read: {exc}") from exc


def read_record(path: Path) -> VMRecord:
    """Return the record in the vm.json at `path`.

    Raises:
        StateError: it is missing, damaged or of another version.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=VMRecord)
    except OSError as exc:
        raise StateError(f"cannot read {path}: {exc.strerror}") from exc
    except DECODE_ERRORS as exc:
        raise StateError(f"{path} cannot be read: {exc}") from exc
    if record.version != RECORD_VERSION:
        raise StateError(f"{path} has version {record.version}, expected {RECORD_VERSION}")
    return record
