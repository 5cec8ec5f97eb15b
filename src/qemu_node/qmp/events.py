"""QMP events and run states as typed values: pure.

Owns the shape of what QEMU says about a guest. Does not own the connection that it comes from
(`connection`) nor which of it is the end of a VM (`vm.record.outcome`).

Names and members are those of QEMU's qapi/run-state.json and qapi/block-core.json. Members that a
newer QEMU adds are ignored. An event that does not fit its type is ignored, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from qemu_node.text import PRINTABLE_MAX_CHARS, printable

Word = Annotated[str, msgspec.Meta(max_length=PRINTABLE_MAX_CHARS, pattern=r"^[ -~]*\Z")]
"""A word that QEMU defines: printable ASCII on one line."""


class RunState(StrEnum):
    """QAPI RunState: the state of a guest."""

    COLO = "colo"
    DEBUG = "debug"
    FINISH_MIGRATE = "finish-migrate"
    GUEST_PANICKED = "guest-panicked"
    INMIGRATE = "inmigrate"
    INTERNAL_ERROR = "internal-error"
    IO_ERROR = "io-error"
    PAUSED = "paused"
    POSTMIGRATE = "postmigrate"
    PRELAUNCH = "prelaunch"
    RESTORE_VM = "restore-vm"
    RUNNING = "running"
    SAVE_VM = "save-vm"
    SHUTDOWN = "shutdown"
    SUSPENDED = "suspended"
    WATCHDOG = "watchdog"
    UNKNOWN = "unknown"
    """Not QEMU's: a state that is newer than this list."""

    @classmethod
    def _missing_(cls, value: object) -> "RunState":
        return cls.UNKNOWN


class StatusInfo(msgspec.Struct, frozen=True):
    """QAPI StatusInfo."""

    status: RunState
    running: bool
    """The vCPUs run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QmpEvent:
    """An event as it was received. Its data is not checked."""

    name: str
    data: Mapping[str, Any]


class Shutdown(msgspec.Struct, frozen=True):
    """SHUTDOWN: the guest has ended; QEMU may end, too."""

    guest: bool
    """The guest itself requested it."""
    reason: Word = ""
    """QAPI ShutdownCause."""


class PanicInfo(msgspec.Struct, frozen=True, rename="kebab"):
    """QAPI GuestPanicInformation with the members of all its types. pvpanic reports none."""

    type: Word
    arg1: int = 0
    """With hyper-v: the bug check code of a Windows blue screen; arg2 to arg5 are its
    parameters."""
    arg2: int = 0
    arg3: int = 0
    arg4: int = 0
    arg5: int = 0
    message: str = ""
    """With tdx."""


class GuestPanicked(msgspec.Struct, frozen=True):
    """GUEST_PANICKED: the guest's kernel panicked."""

    action: Word
    """QAPI GuestPanicAction: how QEMU reacts."""
    info: PanicInfo | None = None


class BlockIoError(msgspec.Struct, frozen=True, rename="kebab"):
    """BLOCK_IO_ERROR: the host failed to read or write a disk of the guest."""

    operation: Word
    action: Word
    """With `stop`, the guest is paused until `cont`."""
    nospace: bool = False
    """The host's file system is full."""
    node_name: Word = ""
    device: Word = ""
    reason: Word = ""


class Watchdog(msgspec.Struct, frozen=True):
    """WATCHDOG: the guest did not reset its watchdog in time."""

    action: Word
    """QAPI WatchdogAction: how QEMU reacts."""


class Stop(msgspec.Struct, frozen=True):
    """STOP: the vCPUs have stopped."""


TypedEvent = Shutdown | GuestPanicked | BlockIoError | Watchdog | Stop

_TYPES: dict[str, type[TypedEvent]] = {
    "SHUTDOWN": Shutdown,
    "GUEST_PANICKED": GuestPanicked,
    "BLOCK_IO_ERROR": BlockIoError,
    "WATCHDOG": Watchdog,
    "STOP": Stop,
}


class _Message(msgspec.Struct):
    event: str
    data: dict[str, Any] = {}


def parse_message(message: Mapping[str, object]) -> QmpEvent | None:
    """Return the event in a QMP message; None if the message is not an event."""
    try:
        parsed = msgspec.convert(dict(message), _Message)
    except (msgspec.ValidationError, RecursionError):
        return None
    return QmpEvent(name=printable(parsed.event), data=parsed.data)


def typed(event: QmpEvent) -> TypedEvent | None:
    """Return `event` as a typed value; None if it is malformed or not used here."""
    kind = _TYPES.get(event.name)
    if kind is None:
        return None
    try:
        return msgspec.convert(event.data, kind)
    except (msgspec.ValidationError, RecursionError):
        return None
