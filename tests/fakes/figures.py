"""Figures of VMs and a node, as a fleet and a driver have them."""

from typing import Any

import msgspec
from unit.web.fleet.test_model import vm

from qemu_node.host.files.space import DiskSpace
from qemu_node.host.process.identity import ProcessId, ProcessTimes
from qemu_node.units import GIB, MIB
from qemu_node.vm.life.usage import DiskState, Usage
from qemu_node.vm.record.nodefile import CacheFacts, Counts, NodeFacts
from qemu_node.web.fleet.livevm import VMFigures
from qemu_node.web.fleet.model import MemoryView
from qemu_node.web.metrics.collect import Collected
from qemu_node.web.metrics.netdev import Traffic
from qemu_node.web.metrics.nodefigures import KsmView, MemoryOfNode, NodeFigures

USAGE = Usage(
    measured_at=1_800_000_000.25,
    cpu_user_s=1.0,
    cpu_system_s=1.0,
    pss_bytes=300 * MIB,
    drops={"mac": 3},
    disk=DiskState(pauses=2),
    merged_bytes=64 * MIB,
    overlay_bytes=GIB,
    read_bytes=5000,
    write_bytes=7000,
)
TRAFFIC = Traffic(
    sent_bytes=10,
    sent_frames=1,
    send_drops=0,
    received_bytes=20,
    received_frames=2,
    receive_drops=1,
)
NODE = NodeFigures(
    memory=MemoryOfNode(total_bytes=64 * GIB, available_bytes=32 * GIB),
    ksm=KsmView(is_running=True, merged_bytes=GIB, shared_bytes=MIB, full_scans=7, profit_bytes=-5),
    disk=DiskSpace(free_bytes=100 * GIB, total_bytes=200 * GIB),
    reserve_bytes=10 * GIB,
    driver=NodeFacts(
        written_at=1_800_000_001.5,
        driver_version="0.1.0",
        cache=CacheFacts(count=3, bytes=9 * GIB, in_use=1, in_use_bytes=4 * GIB),
        cache_at=1_800_000_001.5,
        problems=("no bridge",),
        counts=Counts(
            started=5,
            start_s=2.5,
            cancelled=1,
            failed={"image": 2, "check": 1},
            ended={"panicked": 1, "powered-off": 3},
        ),
    ),
)


def figures(vm_id: str = "web-0123456789ab", **changes: Any) -> VMFigures:
    """Return the figures of one VM; `changes` replace members of its view."""
    memory = MemoryView(
        min_bytes=512 * MIB,
        max_bytes=GIB,
        plugged_bytes=768 * MIB,
        used_bytes=400 * MIB,
        pss_bytes=300 * MIB,
        merged_bytes=64 * MIB,
    )
    view = msgspec.structs.replace(vm(), vm_id=vm_id, memory=memory, **changes)
    return VMFigures(
        view=view,
        process=ProcessId(pid=1, start_time=1),
        nics=(f"qn-{vm_id}"[:15], None),
        started_at=1_799_999_000,
        usage=USAGE,
        agent_answered_at=1_799_999_990,
        memory_said_at=1_799_999_995,
        is_monitor_open=True,
    )


def collected(*vms: VMFigures, node: NodeFigures = NODE, **more: Any) -> Collected:
    """Return what a scrape of `vms` is made of."""
    return Collected(
        node=node,
        version="0.1.0",
        kernel="6.12.0",
        vms=vms,
        cpu={one.view.vm_id: ProcessTimes(user_s=3.0, system_s=1.5) for one in vms},
        traffic={name: TRAFFIC for one in vms for name in one.nics if name is not None},
        **more,
    )
