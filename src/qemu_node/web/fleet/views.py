"""From what is known of a VM to its `VMView`: pure.

Owns which source counts where two speak of the same. Ages are not part of it: see `Fleet`.
"""

from qemu_node.inventory.access import forwarded_ports
from qemu_node.inventory.state import VMStatus, VMSummary
from qemu_node.qmp.events import RunState
from qemu_node.text import printable, without_login
from qemu_node.vm.life.guestnet import GuestNetwork
from qemu_node.vm.record.record import VMRecord
from qemu_node.web.fleet.ends import GuestState
from qemu_node.web.fleet.model import EndView, MemoryView, VMView

_IMAGE_MAX_CHARS = 200
_CPU_STEP_PCT = 0.3
_CPU_STEP_SHARE = 0.1

_STATES = {
    RunState.PAUSED: "paused",
    RunState.IO_ERROR: VMStatus.DISK_FULL.value,
    RunState.SUSPENDED: "suspended",
    RunState.PRELAUNCH: VMStatus.STARTING.value,
    RunState.SHUTDOWN: VMStatus.ENDED.value,
    RunState.GUEST_PANICKED: VMStatus.ENDED.value,
    RunState.INTERNAL_ERROR: VMStatus.ENDED.value,
    RunState.WATCHDOG: VMStatus.ENDED.value,
}
"""What a guest is that does not run; other run states are shown in QEMU's words."""


def state_of(status: VMStatus, run_state: RunState | None) -> str:
    """Return the one word for how a VM is: what its files say, then what QEMU says."""
    is_up = status in (VMStatus.RUNNING, VMStatus.DISK_FULL, VMStatus.UNMANAGED)
    if not is_up or run_state in (None, RunState.RUNNING, RunState.UNKNOWN):
        return status.value
    if status is VMStatus.DISK_FULL:
        return status.value
    return _STATES.get(run_state, run_state.value)


def view_of(
    record: VMRecord,
    summary: VMSummary,
    seen: GuestState,
    *,
    network: GuestNetwork | None = None,
    memory_used_bytes: int | None = None,
    cpu_pct: float | None = None,
    thumbnail: str = "",
    stop_error: str = "",
    viewers: int = 0,
    end: EndView | None = None,
) -> VMView:
    """Return what is shown of a published VM."""
    identity = record.identity
    return VMView(
        vm_id=record.vm_id,
        alloc_id=identity.alloc_id,
        namespace=identity.namespace,
        job=identity.job_name,
        group=identity.group,
        task=identity.task,
        index=identity.index,
        node=identity.node_name,
        state=state_of(summary.status, seen.run_state),
        os=record.hardware.os.value,
        image=printable(_without_query(record.image))[:_IMAGE_MAX_CHARS],
        vcpus=record.hardware.vcpus,
        created_at=record.created_at,
        cpu_pct=cpu_pct,
        memory=MemoryView(
            min_bytes=record.memory_min_bytes,
            max_bytes=record.memory_max_bytes,
            plugged_bytes=seen.plugged_bytes or record.memory_bytes,
            used_bytes=memory_used_bytes,
            pss_bytes=summary.pss_bytes,
            merged_bytes=None if summary.usage is None else summary.usage.merged_bytes,
        ),
        host_name="" if network is None else network.host_name,
        addresses=forwarded_ports(record.nics) + (() if network is None else network.addresses),
        vlans=tuple(nic.vlan for nic in record.nics if nic.vlan is not None),
        drops=dict(summary.drops),
        viewers=viewers,
        allows_exec=record.allow_exec,
        thumbnail=thumbnail,
        stop_error=stop_error,
        end=end,
    )


def _without_query(image: str) -> str:
    """Return an image's address without what may be a secret: its login, a signature."""
    return without_login(image).partition("?")[0]


def settled_cpu(shown: float | None, now: float | None) -> float | None:
    """Return the CPU use to show: another one only where the difference says something."""
    if now is None or shown is None:
        return None if now is None else round(now, 1)
    step = max(_CPU_STEP_PCT, _CPU_STEP_SHARE * shown)
    return shown if abs(now - shown) < step else round(now, 1)
