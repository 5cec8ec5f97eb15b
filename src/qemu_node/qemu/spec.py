"""What one QEMU process is asked to be: a value, complete, without I/O.

Owns the vocabulary of a VM's hardware. Does not own how the job's options become one
(`vm.start.vmspec`) nor how it is spelled on a command line (`cmdline`).
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec


class OsFamily(StrEnum):
    """The guest's operating system family: decides devices, clock and enlightenments."""

    LINUX = "linux"
    WINDOWS = "windows"


class FirmwareMode(StrEnum):
    """How the guest's firmware starts; the value is the job's word."""

    SECURE_BOOT = "secure-boot"
    UEFI = "uefi"
    BIOS = "bios"


class Accelerator(StrEnum):
    """Who executes the guest's code."""

    KVM = "kvm"
    TCG = "tcg"


class DiskAio(StrEnum):
    """How QEMU does disk I/O on the host; the value is QEMU's word."""

    IO_URING = "io_uring"
    THREADS = "threads"


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuVersion:
    """A QEMU version as `(major, minor, micro)`, ordered."""

    major: int
    minor: int
    micro: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.micro}"

    def at_least(self, major: int, minor: int = 0) -> bool:
        """Tell whether this is `major.minor` or newer."""
        return (self.major, self.minor) >= (major, minor)


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What a job decides of its VM's hardware: QEMU is told, and vm.json says it.

    A field that a release adds has the default that says what VMs of earlier ones have.
    """

    os: OsFamily
    firmware: FirmwareMode
    vcpus: int
    merge: bool
    """Guest RAM may be merged with other VMs' (KSM)."""
    watchdog: bool
    """A watchdog that pauses a guest which no longer feeds it; the VM then ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PflashFirmware:
    """UEFI firmware: read-only code and this VM's own variable store, both raw images."""

    code: Path
    varstore: Path
    is_secure: bool
    """SMM guards the varstore: only firmware code may write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseImage:
    """A read-only image whose format is known; it is never probed."""

    path: Path
    is_qcow2: bool
    """Else it is raw."""
    fd: int | None = None
    """The same file, open for reading, inherited by QEMU under this number: it then needs no right
    to the path, and opens the file that was checked."""


class PortForward(msgspec.Struct, frozen=True, kw_only=True):
    """A TCP port of the host that user-mode networking hands to the guest; vm.json says it."""

    label: str
    """Nomad's name of the port."""
    host_ip: str
    host_port: int
    guest_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserNic:
    """A NIC behind QEMU's user-mode network stack (slirp)."""

    mac: str
    hostname: str
    forwards: tuple[PortForward, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TapNic:
    """A NIC whose frames go through a TAP that is open already, inherited by QEMU by number."""

    mac: str
    tap_fds: tuple[int, ...]
    """One descriptor of the same TAP for each pair of queues."""
    vhost_fds: tuple[int, ...]
    """One of /dev/vhost-net for each pair of queues; none: QEMU moves the frames itself."""
    mtu: int | None
    """What the guest is told, in bytes; None: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketFds:
    """Listening unix sockets, made by us and inherited by QEMU under these numbers."""

    qmp: int
    monitor: int
    console: int
    qga: int
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VMSpec:
    """Everything that decides a VM's command line. Sizes in bytes.

    No field has a default: an option that is forgotten on its way here does not type-check.
    """

    vm_id: str
    uuid: str
    hardware: Hardware
    accelerator: Accelerator
    pflash: PflashFirmware | None
    """None: SeaBIOS, which QEMU carries."""
    memory_bytes: int
    """Guest RAM, a multiple of 2 MiB."""
    overlay: Path | None
    """The writable top, qcow2; None: no disk, as of the guest that proves an accelerator."""
    base: BaseImage | None
    """What the overlay lies on; None: on nothing, the overlay starts empty."""
    config_drive: Path | None
    nics: tuple[UserNic | TapNic, ...]
    sockets: SocketFds
    vnc_socket: Path
    serial_log: Path
    """QEMU appends everything that the guest prints on its serial port."""
    aio: DiskAio
    """`io_uring` only where the host is known to allow it (`qemubinary.choose_aio`)."""
    args: tuple[str, ...]
    """Raw options, already checked against the operator's list."""
