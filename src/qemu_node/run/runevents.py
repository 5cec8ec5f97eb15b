"""What happens in a session, as values: for the table, the plain lines and `--json` alike. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """The value is the word in `--json`."""

    NOTE = "note"
    """Something the operator should know; the session goes on."""
    NODE = "node"
    """The driver answered: its version and accelerator."""
    WEB = "web"
    """A link to the web console, which lets one browser in: never in a log."""
    STEP = "step"
    """A VM's start got further."""
    RUNNING = "running"
    READY = "ready"
    """The guest agent answered for the first time, or its answer has changed."""
    SILENT = "silent"
    """The guest agent no longer answers."""
    LOG = "log"
    """A line of the serial console."""
    CONSOLE = "console"
    """The last line of the serial console, of a guest whose agent has not answered yet."""
    STOPPING = "stopping"
    EXITED = "exited"
    FAILED = "failed"
    """The VM did not start, or ended on its own with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """One thing that happened. `vm` None: it concerns the session."""

    kind: EventKind
    message: str
    vm: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)
    """More about it, under fixed names: `percent`, `vm_id`, `pid`, `addresses` …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VMRow:
    """What is known about a VM, for one row of the table."""

    vm: str
    step: str = ""
    agent: str = ""
    address: str = ""
    console: str = ""
    """The last line of the console, while the guest boots or shuts down."""
    secure_boot: bool | None = None
    running_since_s: float | None = None
    has_ended: bool = False
    has_failed: bool = False


def update_row(row: VMRow, event: RunEvent, now_s: float) -> VMRow:
    """Return `row` after `event`, which concerns its VM and happened at `now_s`."""
    changes: dict[str, object] = {}
    match event.kind:
        case EventKind.STEP if row.running_since_s is None:
            changes = {"step": event.message}
        case EventKind.RUNNING:
            changes = {"step": event.message, "running_since_s": now_s,
                       "address": event.details.get("address", row.address)}  # fmt: skip
        case EventKind.READY:
            changes = {"step": "ready", "console": "",
                       "agent": event.details.get("host_name") or "answers",
                       "address": event.details.get("address") or row.address,
                       "secure_boot": event.details.get("secure_boot")}  # fmt: skip
        case EventKind.SILENT:
            changes = {"step": "running", "agent": "silent"}
        case EventKind.STOPPING:
            changes = {"step": event.message}
        case EventKind.CONSOLE:
            changes = {"console": event.message}
        case EventKind.EXITED:
            changes = {
                "step": event.message,
                "console": "",
                "has_ended": True,
                "running_since_s": None,
            }
        case EventKind.FAILED:
            # The reason is shown once, above the table.
            changes = {"step": "failed", "console": "", "has_ended": True, "has_failed": True,
                       "running_since_s": None}  # fmt: skip
        case EventKind.STEP | EventKind.NOTE | EventKind.NODE | EventKind.WEB | EventKind.LOG:
            pass
    values = {name: getattr(row, name) for name in VMRow.__slots__} | changes
    return VMRow(**values)
