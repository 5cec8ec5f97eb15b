"""What the console knows of a VM, and what has changed of it: pure.

Owns the types, which are the JSON of the API, and the difference of two states. Sizes in bytes,
times in seconds or RFC 3339. Text of a guest or a job is as they gave it: clients show it as text.
"""

from collections.abc import Mapping
from typing import Any

import msgspec


class MemoryView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A VM's memory."""

    min_bytes: int
    """What its task reserves."""
    max_bytes: int
    """What it may grow to."""
    plugged_bytes: int
    """What the guest has now."""
    used_bytes: int | None = None
    """What the guest uses, as it says."""
    pss_bytes: int | None = None
    """What the node spends on the VM."""
    merged_bytes: int | None = None
    """How much of it KSM has merged with other memory of the node."""


class EndView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a VM ended."""

    at: str
    reason: str
    """In words."""
    is_failure: bool = False
    exit_code: int | None = None


class VMView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One VM of this node."""

    vm_id: str
    alloc_id: str
    namespace: str
    job: str
    group: str
    task: str
    index: int | None = None
    node: str = ""
    state: str
    """A `VMStatus`, or what QEMU says of a guest that does not run: `paused`, `resetting` …"""
    os: str
    """`linux` or `windows`."""
    image: str
    vcpus: int
    created_at: str
    uptime_s: float | None = None
    """When it was asked for. A `Delta` has it only for a VM that is new: count on."""
    cpu_pct: float | None = None
    """Of one core."""
    memory: MemoryView
    host_name: str = ""
    addresses: tuple[str, ...] = ()
    """Where it is reached, the best one first."""
    vlans: tuple[int, ...] = ()
    drops: Mapping[str, int] = {}
    """Frames of its guest that were not let through, by reason."""
    agent_age_s: float | None = None
    """Since its guest agent answered last, likewise; absent: never."""
    viewers: int = 0
    """People who look at its screen or serial port now."""
    allows_exec: bool = False
    """Whether its job lets programs run through the guest agent."""
    thumbnail: str = ""
    """Changes with its screen; empty: there is no picture yet."""
    stop_error: str = ""
    """Why the last stop without Nomad has not ended it."""
    end: EndView | None = None


class Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has changed since the last one: of each VM only the changed members."""

    changed: Mapping[str, Mapping[str, Any]] = {}
    """vm_id → member → its new value; null: it has none any more. A new VM has all members."""
    gone: tuple[str, ...] = ()


def is_of_figures(before: VMView, after: VMView) -> bool:
    """Tell whether two states of a VM differ in what it uses, and in nothing else."""
    return before == msgspec.structs.replace(
        after, cpu_pct=before.cpu_pct, memory=before.memory, drops=before.drops
    )


def difference(before: Mapping[str, VMView], after: Mapping[str, VMView]) -> Delta:
    """Return what makes `after` of `before`, by vm_id."""
    changed: dict[str, dict[str, Any]] = {}
    for vm_id, vm in after.items():
        old = before.get(vm_id)
        if vm is old or vm == old:
            continue
        members: dict[str, Any] = msgspec.to_builtins(vm)
        if old is not None:
            had: dict[str, Any] = msgspec.to_builtins(old)
            absent = dict.fromkeys(had.keys() - members.keys())
            members = absent | {k: v for k, v in members.items() if k not in had or had[k] != v}
        changed[vm_id] = members
    return Delta(changed=changed, gone=tuple(sorted(before.keys() - after.keys())))
