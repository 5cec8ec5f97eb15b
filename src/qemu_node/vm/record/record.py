"""What is written down about a VM: vm.json for everyone on the node, the state for its driver.

Owns the two formats and the rule by which drivers of different versions share them. Both are JSON,
and readers ignore keys that they do not know.

A change that older readers cope with, such as a new key with a default, keeps the version. Any
other one raises it, and then:

- a newer driver reads every version that a release has written (`tests/data/state` has one each);
- an older driver leaves a VM of a newer one alone: it reports it, does not recover it, and removes
  nothing of it while it lives;
- every version has the keys of `StateHeader`, with the same meaning. So an older driver can tell
  that such a VM lives, keep its ports, and kill it where Nomad orders that.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import msgspec

from qemu_node.errors import NodeError
from qemu_node.host.files.beneath import read_published
from qemu_node.host.process.identity import ProcessId, boot_id, is_alive
from qemu_node.net.portspec import PortSpec
from qemu_node.qemu.spec import Accelerator, Hardware, PortForward
from qemu_node.text import DECODE_ERRORS
from qemu_node.vm.names import TaskIdentity, check_vm_id

RECORD_VERSION = 2
"""Of vm.json. Raised together with STATE_VERSION, as the state holds the record."""

STATE_VERSION = 2
"""Of state.json and driver_state. 1: the keys of identity and hardware were the record's own."""

_Decoded = TypeVar("_Decoded")

_OF_A_PORT = tuple(
    field.name for field in dataclasses.fields(PortSpec) if field.name not in ("vm_id", "index")
)
"""What a `NicRecord` keeps of a port: all but whose and which it is."""


class StateError(NodeError):
    """A written state is there and cannot be read: damaged, or of a newer driver.

    `header` is what could be read of it all the same, None where nothing could.
    """

    def __init__(
        self, message: str, *, header: "StateHeader | None" = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.header = header


class NicRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's network interface as the node set it up: all that is needed to do it again."""

    mode: str
    """`user`, or `vlan` for a port of the bridge."""
    mac: str
    forwards: tuple[PortForward, ...] = ()
    ifname: str | None = None
    """The port's TAP; None in user mode."""
    vlan: int | None = None
    trunk: tuple[int, ...] = ()
    isolated: bool = False
    strict: bool = False
    queues: int = 1
    mtu: int | None = None
    rate_mbit: int | None = None
    addresses: tuple[str, ...] = ()
    """Networks that the guest's addresses on this NIC must be in; none: any."""

    @classmethod
    def of_port(cls, port: PortSpec) -> "NicRecord":
        """Return what is written down of a port of the bridge."""
        return cls(mode="vlan", **{name: getattr(port, name) for name in _OF_A_PORT})


class RecordHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What every version of vm.json has: which process the VM is, and its NICs."""

    vm_id: str
    pid: Annotated[int, msgspec.Meta(gt=0)]
    start_time: int
    nics: tuple[NicRecord, ...]

    def __post_init__(self) -> None:
        check_vm_id(self.vm_id)

    @property
    def ports(self) -> tuple[PortSpec, ...]:
        """The VM's ports of the bridge."""
        return tuple(
            PortSpec(
                vm_id=self.vm_id,
                index=index,
                **{name: getattr(nic, name) for name in _OF_A_PORT},
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


class SocketPaths(msgspec.Struct, frozen=True, kw_only=True):
    """Absolute paths of a VM's sockets."""

    qmp: str
    """QMP for the driver alone."""
    monitor: str
    """QMP for the command line."""
    console: str | None = None
    """QMP for the daemon; None: the VM has no such monitor, as those of drivers before 0.1.0."""
    qga: str
    vnc: str
    serial: str


class VMRecord(RecordHeader, frozen=True, kw_only=True):
    """vm.json: what the daemon and the command line need to know. No secrets; sizes in bytes."""

    version: int = RECORD_VERSION
    identity: TaskIdentity
    hardware: Hardware
    accelerator: Accelerator
    uuid: str
    hostname: str
    image: str
    memory_bytes: int
    """Guest RAM."""
    memory_min_bytes: int
    memory_max_bytes: int
    sockets: SocketPaths
    qga_lock: str
    allow_exec: bool
    alloc_dir: str
    created_at: str
    """RFC 3339, UTC."""

    @property
    def display_name(self) -> str:
        """`job/group[index]/task`, as people refer to it; a task named like its group once."""
        return self.identity.display_name


class HealthEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where the driver answers for the guest agent of one VM."""

    host_ip: str
    port: int


class StateHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What every version of the state has: enough to find a VM and to kill it."""

    version: Annotated[int, msgspec.Meta(ge=1)] = STATE_VERSION
    vm_id: str
    task_id: str
    boot_id: str
    """The boot that `record.process` is of: after another one its numbers may be anyone's."""
    record: RecordHeader
    uid: int | None
    """The user that QEMU runs as; None: ours."""
    data_dir: str | None = None
    """The VM's data directory; None: below `paths.data`, where drivers before 0.1.0 put it."""
    run_dir: str | None = None
    """The VM's run directory; None likewise."""

    def __post_init__(self) -> None:
        check_vm_id(self.vm_id)
        for directory in (self.data_dir, self.run_dir):
            # These are removed with the VM. No Path: two of each VM that is recovered take as long
            # as decoding its state.
            if directory is not None and not _is_plain_path(directory, self.vm_id):
                raise ValueError(f"{directory!r} is no directory of VM {self.vm_id}")

    @property
    def is_running(self) -> bool:
        """Whether the VM's process lives."""
        return self.boot_id == boot_id() and is_alive(self.record.process)


class VMState(StateHeader, frozen=True, kw_only=True):
    """What the driver needs to recover a VM: Nomad's driver_state, and state.json.

    Nomad keeps driver_state unencrypted and does not send the job's options again after an agent
    restart, so everything needed is here and nothing secret; node.toml is not needed either.

    A VM lives longer than the driver that started it, and keeps what it was started with: its
    directories, `uid`, `scope`, and of the record the process, `nics`, `hardware`, `accelerator`,
    the sizes of memory, `sockets` and `qga_lock`. A later driver takes these from here, not from
    its own code: there, names and defaults may be others by then. A VM of before a field was added
    has its default.
    """

    record: VMRecord
    scope: str | None
    """Nomad's cgroup v2 scope of the task."""
    oom_kills: int | None = None
    """OOM kills in `scope` before QEMU's start: what it had since then is this VM's end. None: not
    written down, as by drivers before 0.1.0."""
    health: HealthEndpoint | None
    has_log: bool = True
    """Whether what it prints goes into the task's log."""

    def encode(self) -> bytes:
        """Return this as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes, origin: str) -> Self:
        """Return the state in `data`.

        Raises:
            StateError: `data` is damaged or of a newer driver; `origin` is named.
        """
        header = _decode(data, StateHeader, origin)
        if header.version > STATE_VERSION:
            raise _newer(origin, header.version, STATE_VERSION, header)
        return _decode(data, cls, origin, header, _state_of_v1 if header.version == 1 else None)


def read_record_header(path: Path) -> RecordHeader | None:
    """Return what every version of the vm.json at `path` has; None where it cannot be read."""
    try:
        return msgspec.json.decode(read_published(path), type=RecordHeader)
    except (OSError, *DECODE_ERRORS):
        return None


def read_record(path: Path) -> VMRecord:
    """Return the record in the vm.json at `path`.

    Raises:
        StateError: it is missing, damaged or of a newer driver.
    """
    try:
        data = read_published(path)
    except OSError as exc:
        raise StateError(f"cannot read {path}: {exc.strerror}") from exc
    version = _decode(data, _Version, str(path)).version
    if version > RECORD_VERSION:
        raise _newer(str(path), version, RECORD_VERSION)
    return _decode(data, VMRecord, str(path), lift=_record_of_v1 if version == 1 else None)


def _is_plain_path(path: str, name: str) -> bool:
    """Tell whether `path` is absolute, leads up nowhere, and ends with `name`."""
    parts = path.split("/")
    return parts[0] == "" and parts[-1] == name and ".." not in parts


class _Version(msgspec.Struct, frozen=True):
    version: int


def _decode(
    data: bytes,
    as_type: type[_Decoded],
    origin: str,
    header: StateHeader | None = None,
    lift: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> _Decoded:
    try:
        if lift is not None:
            return msgspec.convert(lift(msgspec.json.decode(data)), as_type)
        return msgspec.json.decode(data, type=as_type)
    except DECODE_ERRORS as exc:
        raise StateError(f"{origin} cannot be read: {exc}", header=header) from exc


def _state_of_v1(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"version": STATE_VERSION, "record": _record_of_v1(state["record"])}


def _record_of_v1(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record of version 1, in which the keys of identity and hardware were its own.

    What it did not say of the hardware, nobody asks of a VM that runs.
    """
    hardware = record | {"merge": False, "watchdog": False}
    return record | {"version": RECORD_VERSION, "identity": record, "hardware": hardware}


def _newer(origin: str, version: int, known: int, header: StateHeader | None = None) -> StateError:
    return StateError(
        f"{origin} cannot be read: a newer driver wrote it, version {version}, and this one knows "
        f"version {known}",
        header=header,
        hint="upgrade this driver",
    )
